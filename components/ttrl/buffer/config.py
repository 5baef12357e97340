"""The buffer's section: sizes, durability, search, priorities, eviction, privacy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.shared.runtime.config import Section


class IndexConfig(Section):
    """How neighbours are found once the exact scan is too slow."""

    kind: Literal["auto", "flat", "ivf", "hnsw", "sq8", "mrl_sq8", "mrl_hnsw"] = "auto"
    """`auto`: flat up to `flat_limit` records, then the first of mrl_hnsw, hnsw, flat that reaches `min_recall`."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Cosine compares normalised vectors; euclidean compares them as they were given."""
    visual_weight: float = Field(0.7, ge=0, le=1)
    """Share of the visual embedding in the hybrid one; the text embedding has the rest."""
    flat_limit: int = Field(10_000, ge=0)
    """Up to this many records the index is an exact scan, kept current in place."""
    rebuild_tail: int = Field(2_000, ge=1)
    """Unindexed records that start a rebuild (and at least `rebuild_share` of the indexed ones)."""
    rebuild_share: float = Field(0.1, ge=0, le=10)
    """Unindexed or vanished records as a share of the indexed ones that start a rebuild."""
    nprobe: int = Field(10, ge=1)
    """IVF lists visited per query."""
    hnsw_neighbours: int = Field(32, ge=4, le=128)
    """HNSW links per node."""
    hnsw_ef_construction: int = Field(80, ge=8)
    """HNSW beam while building."""
    hnsw_ef_search: int = Field(64, ge=8)
    """HNSW beam while searching."""
    matryoshka_width: int = Field(128, ge=4)
    """Leading dimensions searched by the mrl kinds before the exact re-rank."""
    rerank: int = Field(100, ge=1)
    """Candidates re-ranked at full width."""
    min_recall: float = Field(0.98, ge=0, le=1)
    """recall@10 against the exact scan, measured on the records themselves, under which an index is not used."""
    recall_queries: int = Field(200, ge=10)
    """Records asked by the recall self-check."""
    gpu: bool = False
    """Search flat indexes on a GPU where faiss has one; falls back to the CPU and says so."""


class PriorityConfig(Section):
    """Which experiences are worth learning from (design: 0.4, 0.4, 0.2)."""

    uncertainty_weight: float = Field(0.4, ge=0)
    """Weight of 1 - confidence."""
    reward_weight: float = Field(0.4, ge=0)
    """Weight of |reward|, clipped to 1."""
    recency_weight: float = Field(0.2, ge=0)
    """Weight of 2^(-age / half-life)."""
    half_life_s: float = Field(86_400.0, gt=0)
    """Age at which recency has halved."""
    floor: float = Field(0.01, gt=0)
    """Smallest priority: everything stays reachable."""
    success_share: float = Field(0.3, ge=0, le=1)
    """Share of a retrieved record's priority that depends on its success rate."""


class BufferConfig(Section):
    """The experience buffer."""

    dimension: int = Field(512, ge=1, le=65_535)
    """Width of every embedding; fixed for the life of the buffer."""
    adapter: Literal["file", "lmdb"] = "file"
    """Where bytes are kept: the segmented log, or LMDB."""
    segment_bytes: int = Field(64 << 20, ge=4096, le=1 << 32)
    """Size of a log segment."""
    preallocate: bool = True
    """Write zeros ahead of the records so that most commits change no file metadata."""
    lmdb_map_bytes: int = Field(64 << 30, ge=1 << 20)
    """Address space LMDB may use (not disk)."""
    max_record_bytes: int = Field(16 << 20, ge=1024, le=1 << 30)
    """Largest encoded experience, its new frames included."""
    max_batch_bytes: int = Field(8 << 20, ge=1024)
    """Bytes written by one group commit before the next one starts."""
    snapshot_interval: int = Field(100, ge=1)
    """Log records after which a snapshot is due."""
    snapshot_bytes: int = Field(64 << 20, ge=1024)
    """Log bytes after which a snapshot is due."""
    snapshot_duty: float = Field(0.02, gt=0, le=1)
    """Largest share of time spent writing snapshots: under load they are spaced out."""
    generations: int = Field(3, ge=1, le=100)
    """Snapshots kept."""
    compaction_dead_share: float = Field(0.3, gt=0, lt=1)
    """A segment with a larger share of dead bytes is rewritten in the background."""
    compaction_bytes_per_s: int = Field(32 << 20, ge=4096)
    """I/O budget of background compaction."""
    background: bool = True
    """Snapshots, compaction, retention and index rebuilds in the background; off: only when asked for."""
    capacity_records: int = Field(1_000_000, ge=1)
    """Most live records; beyond it the eviction policy decides."""
    capacity_bytes: int = Field(1 << 40, ge=4096)
    """Most live bytes (records and frames)."""
    eviction: Literal["lowest_priority", "oldest", "reservoir"] = "lowest_priority"
    """Which record leaves when the buffer is over capacity."""
    retention_days: float = Field(90.0, gt=0)
    """Age at which a record is removed and its bytes overwritten."""
    disk_retry_s: float = Field(1.0, ge=0)
    """How often a buffer that met a full disk tries again."""
    min_free_bytes: int = Field(16 << 20, ge=0)
    """Free space below which appends are refused before the disk is really full."""
    source_share: float = Field(1.0, gt=0, le=1)
    """Largest share of a sampled batch from one source."""
    max_sample_age_s: float | None = Field(None, gt=0)
    """Older records are not sampled."""
    min_sample_distance: float = Field(0.0, ge=0, le=2)
    """Smallest cosine distance between two records of a sampled batch (0: no diversity bound)."""
    index: IndexConfig = IndexConfig()
    """Search."""
    priority: PriorityConfig = PriorityConfig()
    """Sampling priorities."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> BufferConfig:
        if self.index.matryoshka_width > self.dimension and self.index.kind.startswith("mrl"):
            raise ValueError(
                f"index.matryoshka_width {self.index.matryoshka_width} is wider than dimension {self.dimension}"
            )
        return self
