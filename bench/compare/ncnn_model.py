"""basicsr's RRDBNet as the two files that ncnn reads, in fp32.

pnnx, ncnn's own converter, gives the same picture, but takes minutes for this model. The format is described in
https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and operation-param-weight-table there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = 7767517
LEAKY_RELU = "9=2 -23310=1,2.000000e-01"  # the activation fused into a Convolution, and its slope
SCALED_SUM = "0=1 -23301=2,2.000000e-01,1.000000e+00"  # Eltwise: 0.2 × the first + the second


def write_ncnn(model: Any, folder: Path) -> tuple[Path, Path]:
    """Write `model`, an RRDBNet of scale 4, and return the paths of the .param and the .bin.

    The blob `pixels` goes in and `result` comes out, both `(3, h, w)` around 0–1, of any size.
    """
    files = _Files(model)
    files.describe()
    param, weights = folder / "x4plus.param", folder / "x4plus.bin"
    blobs = sum(int(line.split()[3]) for line in files.lines)
    param.write_text("\n".join([str(MAGIC), f"{len(files.lines)} {blobs}", *files.lines, ""]))
    weights.write_bytes(b"".join(files.weights))
    return param, weights


@dataclass
class _Files:
    """The lines of the .param and the pieces of the .bin."""

    model: Any
    lines: list[str] = field(default_factory=list)
    weights: list[bytes] = field(default_factory=list)

    def describe(self) -> None:
        self._layer("Input", [], ["pixels"])
        shallow, features = self._split(self._convolution("conv_first", "pixels"), 2)
        for index in range(len(self.model.body)):
            features = self._block(f"body.{index}", features)
        features = self._sum(self._convolution("conv_body", features), shallow, "0=1")
        for name in ("conv_up1", "conv_up2"):
            (larger,) = self._layer("Interp", [features], [f"{name}_in"], "0=1 1=2.0 2=2.0")  # nearest neighbours, twice
            features = self._convolution(name, larger, LEAKY_RELU)
        self._convolution("conv_last", self._convolution("conv_hr", features, LEAKY_RELU), blob="result")

    def _block(self, name: str, features: str) -> str:
        kept, inner = self._split(features, 2)
        for dense in ("rdb1", "rdb2", "rdb3"):
            inner = self._dense_block(f"{name}.{dense}", inner)
        return self._sum(inner, kept, SCALED_SUM)

    def _dense_block(self, name: str, features: str) -> str:
        first, kept, *copies = self._split(features, 6)
        grown: list[list[str]] = [copies]  # of the input and of each convolution, a copy for each convolution behind it
        last = first
        for number in range(1, 6):
            if number > 1:
                inputs = [copies_of.pop() for copies_of in grown]
                (last,) = self._layer("Concat", inputs, [f"{name}.cat{number}"], "0=0")
            last = self._convolution(f"{name}.conv{number}", last, LEAKY_RELU if number < 5 else "")
            if number < 5:
                grown.append(self._split(last, 5 - number))
        return self._sum(last, kept, SCALED_SUM)

    def _convolution(self, name: str, blob_in: str, activation: str = "", blob: str = "") -> str:
        convolution = self.model.get_submodule(name)
        weight, bias = convolution.weight.detach().float(), convolution.bias.detach().float()
        self.weights += [bytes(4), weight.numpy().tobytes(), bias.numpy().tobytes()]  # the tag 0 says fp32
        options = f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.numel()} {activation}"  # 3×3, padded by 1, with bias
        return self._layer("Convolution", [blob_in], [blob or name], options)[0]

    def _split(self, blob: str, count: int) -> list[str]:
        return self._layer("Split", [blob], [f"{blob}.{index}" for index in range(count)]) if count > 1 else [blob]

    def _sum(self, first: str, second: str, options: str) -> str:
        return self._layer("Eltwise", [first, second], [f"{first}.sum"], options)[0]

    def _layer(self, kind: str, inputs: list[str], outputs: list[str], options: str = "") -> list[str]:
        words = [kind, f"layer{len(self.lines)}", str(len(inputs)), str(len(outputs)), *inputs, *outputs, options]
        self.lines.append(" ".join(words).strip())
        return outputs
