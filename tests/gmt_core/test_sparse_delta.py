"""Deltas there and back, their sizes, and what is refused."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmt_core import one_off_drop
from tests.gmt_core.test_delta import DTYPES, pair

pytest.importorskip("safetensors", reason="an extra: gmt-core[delta]")

from safetensors.torch import load_file, save_file

from gmt_core.sparse_delta import TensorFiles, apply_delta, load_delta, save_delta, write_tuned

Tensors = dict[str, Tensor]


def there_and_back(base: Tensors, tuned: Tensors, folder: Path) -> Tensors:
    save_delta(base, tuned, folder / "delta.safetensors")
    return dict(apply_delta(base, load_delta(folder / "delta.safetensors")))


def same_bits(one: Tensor, other: Tensor) -> bool:
    same = one.dtype == other.dtype and one.shape == other.shape
    flat = [x.contiguous().view(-1).view(torch.uint8) for x in (one, other)]
    return same and torch.equal(*flat)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(DTYPES), st.integers(0, 9))
def test_base_and_delta_are_the_tuned_model_bit_for_bit(
    tmp_path_factory, seed, dtype, tenths
) -> None:
    base, tuned = pair(dtype, seed)
    tuned["row"][0] = -0.0
    tuned["row"][1] = torch.nan
    tuned = {
        **tuned,
        "wide": dict(one_off_drop(base, tuned | {"row": base["row"]}, tenths / 10))["wide"],
    }
    found = there_and_back(base, tuned, tmp_path_factory.mktemp("delta"))
    assert list(found) == list(base)
    for name, expected in tuned.items():
        assert same_bits(found[name], expected)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.float8_e4m3fn,
        torch.uint16,
        torch.float64,
        torch.complex64,
        torch.complex128,
    ],
)
@pytest.mark.parametrize("changes", [0, 1, 40, 999])
def test_every_dtype_and_number_of_changes(dtype, changes: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(changes)
    raw = torch.randint(0, 2, (1003, dtype.itemsize), generator=generator, dtype=torch.uint8)
    other = raw.clone()
    other[torch.randperm(1003, generator=generator)[:changes]] ^= 1
    base, tuned = ({"x": each.view(dtype).squeeze(1)} for each in (raw, other))
    assert same_bits(there_and_back(base, tuned, tmp_path)["x"], tuned["x"])


def test_an_expanded_tensor(tmp_path: Path) -> None:
    base = {"x": torch.ones(1).expand(5), "y": torch.ones(6, 8)[:, ::2]}
    tuned = {"x": torch.arange(5.0), "y": torch.full((4, 1, 6), 2.0)[:, 0].t()}
    found = there_and_back(base, tuned, tmp_path)
    assert all(same_bits(found[name], tuned[name]) for name in tuned)


def test_a_small_change_makes_a_small_file(tmp_path: Path) -> None:
    base = {"a": torch.randn(100, 100), "b": torch.randn(100, 100).t()}
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    tuned["b"][3, 7] += 1.0
    found = there_and_back(base, tuned, tmp_path)
    assert (tmp_path / "delta.safetensors").stat().st_size < 600
    assert list(load_delta(tmp_path / "delta.safetensors").stored) == ["b"]
    assert torch.equal(found["b"], tuned["b"])
    assert found["a"] is base["a"]


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    base = dict.fromkeys(["embed", "head"], torch.zeros(300, 10))
    tuned = dict.fromkeys(["embed", "head"], torch.randn(300, 10))
    base["untied"], tuned["untied"] = torch.zeros(300, 10), torch.ones(300, 10)
    found = there_and_back(base, tuned, tmp_path)
    assert sorted(load_delta(tmp_path / "delta.safetensors").stored) == ["embed", "untied"]
    assert all(torch.equal(found[name], tuned[name]) for name in tuned)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.5, 1.0])
def test_a_delta_is_at_most_the_dense_one(dtype, share: float, tmp_path: Path) -> None:
    """Whatever changes, every byte of it; the dense one has the same metadata."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (64, 128), generator=generator, dtype=torch.uint8)
    changes = torch.rand(raw.shape, generator=generator) < share
    base = {"norm": raw[0].view(dtype), "weight": raw[1:].view(dtype)}
    other = torch.where(changes, raw ^ 255, raw)
    tuned = {"norm": other[0].view(dtype), "weight": other[1:].view(dtype)}
    found = there_and_back(base, tuned, tmp_path)
    assert all(same_bits(found[name], tuned[name]) for name in tuned)
    delta = tmp_path / "delta.safetensors"
    save_file(tuned, tmp_path / "dense", TensorFiles(delta).metadata)
    assert delta.stat().st_size <= (tmp_path / "dense").stat().st_size


CASES = re.compile(r"^(\w+,\w+,[\d.]+),[\d.]+,(\d+),(\d+),", re.M)


def test_deltas_after_twenty_updates_are_smaller_than_the_weights(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "benchmarks" / "delta_sizes.py"],
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    sizes = {case: int(delta) / int(dense) for case, delta, dense in CASES.findall(done.stdout)}
    assert sizes["float32,gradient,0.3"] < 0.9
    assert sizes["bfloat16,gradient,0.3"] < 0.75
    assert sizes["float32,update,0.9"] < 0.85
    assert sizes["float32,update,0.3"] < 0.9
    assert max(sizes.values()) < 1


def test_the_example_serves_two_deltas(root, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["serve_deltas.py", "--folder", str(tmp_path)])
    with torch.random.fork_rng():
        runpy.run_path(str(root / "examples" / "serve_deltas.py"), run_name="__main__")
    products, sums, again = re.findall(r": (-?[\d.]+) \(", capsys.readouterr().out)
    assert products == again
    assert float(products) == pytest.approx(-1.5, abs=0.3)
    assert float(sums) == pytest.approx(0.5, abs=0.3)


def test_another_base_is_refused_wherever_it_differs(tmp_path: Path) -> None:
    base, tuned = pair(torch.float32)
    tuned["one"] = base["one"]
    save_delta(base, tuned, tmp_path / "delta")
    delta = load_delta(tmp_path / "delta")
    unchanged = int((base["wide"] == tuned["wide"]).flatten().nonzero()[0])
    elsewhere = base["wide"].clone()
    elsewhere.view(-1)[unchanged] += 1
    for name, other in {"wide": elsewhere, "one": base["one"] + 1}.items():
        with pytest.raises(ValueError, match=f"{name}: the delta was made from a base with other"):
            apply_delta({**base, name: other}, delta)
    with pytest.raises(ValueError, match="row: expected a base of"):
        apply_delta({**base, "row": base["row"].half()}, delta)
    with pytest.raises(ValueError, match="row: expected a base of"):
        apply_delta({**base, "row": base["row"][:, None]}, delta)
    with pytest.raises(ValueError, match="base: no tensor 'row'"):
        apply_delta({n: t for n, t in base.items() if n != "row"}, delta)
    with pytest.raises(ValueError, match="delta: no tensor 'rows'; did you mean 'row'"):
        apply_delta({**base, "rows": base["row"]}, delta)


def test_another_dtype_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    base, tuned = pair(torch.float32)
    with pytest.raises(ValueError, match="row: expected one dtype"):
        save_delta(base, {**tuned, "row": tuned["row"].half()}, tmp_path / "delta")
    assert not list(tmp_path.iterdir())


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def cut_in_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def replace_by_text(file: Path) -> None:
    file.write_text("once upon a time")


def replace_by_pickle(file: Path) -> None:
    torch.save({"weight": torch.ones(2)}, file)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def rename_format(file: Path) -> None:
    metadata = {**TensorFiles(file).metadata, "format": "gmt_core delta 4"}
    save_file(load_file(file), file, metadata)


def save_a_model(file: Path) -> None:
    save_file({"wide": torch.ones(2)}, file, {"format": "pt"})


def lose_a_tensor(file: Path) -> None:
    tensors, metadata = load_file(file), TensorFiles(file).metadata
    save_file({n: t.clone() for n, t in tensors.items() if n != "row"}, file, metadata)


def shorten_a_tensor(file: Path) -> None:
    tensors, metadata = load_file(file), TensorFiles(file).metadata
    save_file({n: t[n == "row" :].clone() for n, t in tensors.items()}, file, metadata)


def turn_a_bit(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"\x0f")


def lose_the_list(file: Path) -> None:
    save_file(load_file(file), file, {"format": TensorFiles(file).metadata["format"]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "expected a whole safetensors file"),
        (cut_in_header, "expected a whole safetensors file"),
        (replace_by_text, "expected a whole safetensors file"),
        (replace_by_pickle, "expected a whole safetensors file"),
        (empty, "expected a whole safetensors file"),
        (rename_format, "expected a file of format 'gmt_core delta 3', found 'gmt_core delta 4'"),
        (save_a_model, "expected a file of format 'gmt_core delta 3', found 'pt'"),
        (lose_a_tensor, "the tensor 'row' is missing or damaged"),
        (shorten_a_tensor, "the tensor 'row' is missing or damaged"),
        (turn_a_bit, "the tensor 'wide' is missing or damaged"),
        (lose_the_list, "its list of tensors is missing or damaged"),
    ],
)
def test_bad_files_are_named(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    save_delta(*pair(torch.float32), tmp_path / "some.delta")
    spoil(tmp_path / "some.delta")
    with pytest.raises(ValueError, match=rf"some\.delta: {message}"):
        load_delta(tmp_path / "some.delta")


def write_folder(folder: Path, tensors: Tensors, shards: int) -> Path:
    """A model folder as transformers writes it."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"the untuned weights")
    weight_map = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        some = {name: t for name, t in tensors.items() if weight_map[name] == file}
        save_file(some, folder / file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_folders_of_shards(tmp_path: Path) -> None:
    base, tuned = pair(torch.bfloat16)
    folder = write_folder(tmp_path / "base", base, 3)
    save_file({"wide": torch.ones(2)}, folder / "consolidated.safetensors")  # not in the index
    shards = TensorFiles(write_folder(tmp_path / "tuned", tuned, 2))
    save_delta(TensorFiles(folder), shards, tmp_path / "delta")
    delta = load_delta(tmp_path / "delta")
    write_tuned(folder, delta, tmp_path / "new")
    found = TensorFiles(tmp_path / "new")
    assert set(found) == set(tuned) and found.metadata == {"format": "pt"}
    assert all(same_bits(found[name], tuned[name]) for name in tuned)
    kept = {path.name for path in (tmp_path / "new").iterdir()}
    left = {"pytorch_model.bin", "consolidated.safetensors"}
    assert kept == {path.name for path in folder.iterdir()} - left
    written = [tmp_path / "delta", *(tmp_path / "new").iterdir()]
    assert len({path.stat().st_mode for path in written}) == 1  # readable, as the configuration is
    with pytest.raises(ValueError, match="new: expected a folder that does not exist yet"):
        write_tuned(folder, delta, tmp_path / "new")
    with pytest.raises(ValueError, match=r"inside: expected a folder .* outside of .*base"):
        write_tuned(folder, delta, folder / "inside")
    with pytest.raises(ValueError, match="the delta was made from a base with other values"):
        write_tuned(tmp_path / "tuned", delta, tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned", "delta", "new"}


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder with \.safetensors files"):
        TensorFiles(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(
        ValueError, match=r"two\.safetensors: another file of the folder holds 'a'"
    ):
        TensorFiles(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "three.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"three\.safetensors"):
        TensorFiles(tmp_path)
    for text in ('{"weight_map": {"a": "three.saf', "[]", '{"weight_map": ["three.safetensors"]}'):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"index\.json: expected JSON with a weight_map"):
            TensorFiles(tmp_path)


MEASURED = """
import sys, threading, time
from pathlib import Path
import torch
from gmt_core.sparse_delta import TensorFiles, load_delta, save_delta, write_tuned

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def watch():
    while True:
        seen.append(resident())
        time.sleep(0.002)

torch.set_num_threads(1)
folder = Path(sys.argv[1])
start, seen = resident(), []
threading.Thread(target=watch, daemon=True).start()
save_delta(TensorFiles(folder / "base"), TensorFiles(folder / "tuned"), folder / "delta")
write_tuned(folder / "base", load_delta(folder / "delta"), folder / "new")
print(max(seen) - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_folder_is_never_whole_in_memory(tmp_path: Path, root: Path) -> None:
    """128 MiB in tensors of 4 MiB; torch's first operations take 10 MiB."""
    base = {f"{i}": torch.randn(1 << 20) for i in range(32)}
    write_folder(tmp_path / "base", base, 2)
    write_folder(tmp_path / "tuned", {n: t * 1.001 for n, t in base.items()}, 2)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 64
