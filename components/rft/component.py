"""KFP interface of `rft`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def rft(
    section: str,
    trajectories: dsl.Input[dsl.Dataset],
    clips: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    encoder: dsl.Input[dsl.Model],
    reinforced: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Reinforce the policy on questions, with visual operations (GRPO).

    Args:
        section: The step's section as canonical JSON.
        trajectories: Trajectories and questions.
        clips: Clips as WebDataset shards.
        base: The policy's starting weights.
        adapter: Adapter after supervised fine-tuning.
        encoder: Aligned encoders, for the novelty reward.
        reinforced: Adapter after reinforcement.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
    """
    from components.rft.config import RftConfig
    from components.rft.train import RftInputs, RftOutputs, reinforce
    from components.shared.runtime.step import run_step

    run_step(
        "rft",
        reinforce,
        (RftConfig, section),
        (
            RftInputs,
            {"trajectories": trajectories, "clips": clips, "base": base, "adapter": adapter, "encoder": encoder},
        ),
        (RftOutputs, {"adapter": reinforced}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
