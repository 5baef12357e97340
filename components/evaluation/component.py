"""KFP interface of `evaluation` and of `gate`, its decision."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def evaluation(
    section: str,
    promotion: str,
    clips: dsl.Input[dsl.Dataset],
    trajectories: dsl.Input[dsl.Dataset],
    recordings: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    sft: dsl.Input[dsl.Model],
    rft: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Judge base, SFT and RFT on people never seen, beside trivial baselines and the reigning champion.

    Args:
        section: The step's section as canonical JSON.
        promotion: The promotion section: under which name the champion is found.
        clips: Clips with the test split.
        trajectories: Questions of the test split.
        recordings: Recordings with their manifest.
        base: The policy's starting weights.
        sft: Adapter after supervised fine-tuning.
        rft: Adapter after reinforcement.
        evaluation: Predictions, figures, report and the gate's decision.
        metrics: Figures of the step.
        confusion: Confusion matrix of the candidate.
        page: Report with pictures.
        summary: The result in a few lines.
    """
    import json
    from functools import partial

    from components.evaluation.config import EvaluationConfig
    from components.evaluation.evaluate import EvaluationInputs, EvaluationOutputs, evaluate_beside_champion
    from components.shared.runtime.step import run_step

    inputs = {"clips": clips, "trajectories": trajectories, "recordings": recordings, "base": base, "sft": sft}
    run_step(
        "evaluation",
        partial(evaluate_beside_champion, json.loads(promotion)),
        (EvaluationConfig, section),
        (EvaluationInputs, inputs | {"rft": rft}),
        (EvaluationOutputs, {"evaluation": evaluation}),
        {"metrics": metrics, "confusion": confusion, "page": page, "summary": summary},
    )


@dsl.component(base_image="python", install_kfp_package=False)
def gate(section: str, evaluation: dsl.Input[dsl.Artifact]) -> str:
    """Return `promote` or `hold`; the reasons stand in the evaluation.

    Args:
        section: The evaluation section as canonical JSON.
        evaluation: The evaluation to decide on.
    """
    from pathlib import Path

    from components.evaluation.config import EvaluationConfig
    from components.evaluation.gate import decide
    from components.shared.runtime.step import record_values

    with record_values("gate", {}) as record:
        decision = decide(EvaluationConfig.parse(section, name="evaluation"), Path(evaluation.path))
        record.facts = {"decision": decision}
    return decision
