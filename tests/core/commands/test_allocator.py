"""Memory that forward passes free stays with the process: it is not fetched page by page again."""

import json
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
from faceguide.core.commands.allocator import keep_freed_memory
import torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16, 64, 112, 112)  # 51 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = faults()
done = keep_freed_memory()
faults()
print(json.dumps([done, before, faults()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_large_blocks_are_mapped_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    kept, before, after = json.loads(done.stdout)
    assert kept
    assert after < before / 20
