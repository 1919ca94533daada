"""Random streams: patient 7 is the same patient in a cohort of ten or of a million.

Patients are grouped into fixed blocks of 256 by their number. Every block owns one SFC64 generator per
purpose, keyed by ``SeedSequence(seed, spawn_key=(cohort, purpose, block))``, and always draws for all of
its 256 patients. So nothing depends on how many patients are simulated, in which chunks, by how many
workers, or which doses are given. SFC64 is the fastest of NumPy's generators (126 M float32 normals/s
against Philox 95 M on the machine of ``benchmarks/results/simulator.md``), and a block of 256 is long
enough to keep that speed.
"""

from numpy.random import SFC64, Generator, SeedSequence

BLOCK = 256
"""Patients per block."""

COHORTS = {"train": 0, "evaluation": 1}
"""Cohort names: the same seed gives different patients in each."""

PATIENT, NOISE, MEASUREMENT, POLICY = range(4)
"""Purposes of a stream: who the patient is, process noise, measurement noise, the behaviour policy's dice."""

REPLICATION = 2
"""First spawn key of the stream of a whole replication, which both cohorts share."""

MATCHED = 3
"""First spawn key of the patients of ``simulator.cohorts.posterior``, who are in neither cohort."""


def block_streams(seed: int, cohort: str, purpose: int, first: int, n: int) -> list[Generator]:
    """Return the fresh generators of all blocks that hold patients ``first`` to ``first + n - 1``."""
    blocks = range(first // BLOCK, (first + n - 1) // BLOCK + 1)
    key = COHORTS[cohort]
    return [Generator(SFC64(SeedSequence(seed, spawn_key=(key, purpose, block)))) for block in blocks]


def replication_stream(seed: int) -> Generator:
    """Return the generator of what a replication draws once for both cohorts (the shared covariance)."""
    return Generator(SFC64(SeedSequence(seed, spawn_key=(REPLICATION,))))


def matched_stream(seed: int, stage: int, purpose: int, block: int) -> Generator:
    """Return the fresh generator of one block of patients at a stage of the matching to a state."""
    return Generator(SFC64(SeedSequence(seed, spawn_key=(MATCHED, stage, purpose, block))))
