"""The CUDA kernel: run by Triton's interpreter, and compiled for two generations of GPUs without one."""

import os
import subprocess
import sys

import numpy as np
import pytest
from packaging.version import Version

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from hf_emktd.distillation import token_distillation_triton as form  # noqa: E402

IN_THE_INTERPRETER = """
import itertools
import torch
from hf_emktd.distillation import TokenKernel
from hf_emktd.distillation import fused_token_distillation as blocks, token_distillation_triton as form
from hf_emktd.distillation.kernels import unit_tokens

form.WIDEST_GRADIENT = 16  # so that wider tokens are shared among programs
kernels = [(TokenKernel("linear"), 0.1), (TokenKernel("polynomial"), 1.0), (TokenKernel("rbf", gamma=2.0), 0.5)]
shapes = [(2, 40, 20, 40), (1, 5, 3, 33)]
for (kernel, delta), (batch, count, width, wider) in itertools.product(kernels, shapes):
    generator = torch.Generator().manual_seed(0)
    student = unit_tokens(torch.randn(batch, count, width, generator=generator))
    teacher = unit_tokens(torch.randn(batch, count, wider, generator=generator))
    student[0, 1] = 0
    expected = torch.zeros(student.shape, dtype=torch.float64)
    sums = blocks.compare_unit_tokens(student.double(), teacher.double(), kernel, delta, expected)
    gradient = torch.zeros_like(student)
    ours = form.compare_unit_tokens(student, teacher, kernel, delta, gradient)
    for pull in (gradient, expected):  # what lies along a token is taken away in any case
        blocks.through_length(pull, student.to(pull), torch.ones_like(pull[..., :1]))
    assert ((ours - sums).abs() < 1e-5 * sums).all(), (kernel, count, delta)
    assert (gradient - expected).norm() < 1e-5 * expected.norm(), (kernel, count, delta)
    assert torch.equal(form.compare_unit_tokens(student, teacher, kernel, delta, None), ours)
print("as the blocks")
"""


@pytest.mark.skipif(
    Version(triton.__version__) < Version("3.7") and Version(np.__version__) >= Version("2.4"),
    reason="the interpreter of Triton 3.6 turns arrays of one element into numbers, which NumPy 2.4 refuses",
)
def test_the_kernel_computes_what_the_blocks_do(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "1"}
    # from a file: Triton reads the source of its kernels
    (tmp_path / "code.py").write_text(IN_THE_INTERPRETER)
    ended = subprocess.run([sys.executable, tmp_path / "code.py"], env=environment, capture_output=True, text=True)
    assert ended.stdout.strip() == "as the blocks", ended.stderr


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_without_a_gpu(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tensors = dict.fromkeys(("student", "teacher", "sums", "gradient"), "*fp32")
    numbers = dict.fromkeys(("count", "student_width", "teacher_width"), "i32")
    constants = dict.fromkeys(("delta", "gamma", "constant"), "fp32")
    options = {"KERNEL": "rbf", "DEGREE": 2, "WITH_GRADIENT": True, "WIDTH": form.WIDEST_GRADIENT, **form.TILE}
    signature = tensors | numbers | constants | dict.fromkeys(options, "constexpr")
    source = ASTSource(form._compare, signature, options)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": form.WARPS})
    assert binary.asm["cubin"] and binary.metadata.shared <= 48 * 1024  # what every block may have
