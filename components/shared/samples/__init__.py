"""Clips, trajectories and questions, and the shards they travel in."""

from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.clip_shards import read_clip_metas, read_clips, write_clip
from components.shared.samples.index import ShardIndex, read_index, verify_artifact, write_index
from components.shared.samples.shards import ShardRecord, ShardWriter
from components.shared.samples.stream import SampleStream, Share
from components.shared.samples.trajectory import Call, Question, ToolResult, Trajectory, Turn
from components.shared.samples.trajectory_shards import (
    read_questions,
    read_trajectories,
    write_questions,
    write_trajectory,
)

__all__ = [
    "Call",
    "Clip",
    "ClipMeta",
    "Question",
    "SampleStream",
    "ShardIndex",
    "ShardRecord",
    "ShardWriter",
    "Share",
    "ToolResult",
    "Trajectory",
    "Turn",
    "read_clip_metas",
    "read_clips",
    "read_index",
    "read_questions",
    "read_trajectories",
    "verify_artifact",
    "write_clip",
    "write_index",
    "write_questions",
    "write_trajectory",
]
