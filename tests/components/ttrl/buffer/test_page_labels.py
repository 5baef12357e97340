"""Labels in the picture of `stat --html`."""

import numpy as np

from components.ttrl.buffer.tools.page import label_groups, legend_text


def test_the_legend_names_the_most_frequent_labels_and_sums_up_the_rest():
    labels = np.array([7] * 5 + [3] * 9 + list(range(20, 40)))
    groups = label_groups(labels, [f"label {i}" for i in range(40)])
    assert [name for name, _ in groups[:2]] == ["label 3 (9)", "label 7 (5)"]
    assert len(groups) == 10 and groups[-1][0] == "13 others (13)"
    assert np.array_equal(sum(mask.astype(int) for _, mask in groups), np.ones(len(labels)))
    few = label_groups(np.array([0, 1]), ["", "x" * 60])
    assert [name for name, _ in few] == ["(none) (1)", "x" * 23 + "… (1)"]


def test_a_legend_shows_labels_as_they_were_written():
    """Matplotlib leaves out what begins with an underscore, and takes what stands between dollars for a formula."""
    from matplotlib.figure import Figure

    figure = Figure()
    axis = figure.subplots()
    for name in ("_lift", "weld $x$", "$"):
        axis.scatter([0], [0], label=legend_text(name))
    handles, names = axis.get_legend_handles_labels()
    assert len(figure.legend(handles, names).get_texts()) == 3
    assert [text.strip() for text in names] == ["_lift", r"weld \$x\$", r"\$"]
