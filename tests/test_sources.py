"""Files and iterators: what is read is what was written, at any order, in bounded memory; bad files are one line."""

import csv
import errno
import gc
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.data import array_files, csv_table, inputs, resident, tables, writing

D = tn.data
HOST = tn.get_backend("numpy")
RNG = np.random.default_rng(0)
X, Y, W = RNG.standard_normal((50, 3)), RNG.integers(0, 4, 50), RNG.uniform(0.1, 1, 50)
NEEDS = {".parquet": "pyarrow", ".csv": "pyarrow", ".h5": "h5py"}
FORMATS = [".npy", ".npz", ".parquet", ".csv", ".h5"]


def need(suffix):
    if suffix in NEEDS:
        pytest.importorskip(NEEDS[suffix], reason="the format needs it")


def parts(data, index, dtype="float64"):
    return [None if a is None else HOST.to_numpy(a) for a in data.batch(index, HOST, dtype)]


@pytest.mark.parametrize("rows", [7, 65536])
@pytest.mark.parametrize(
    "data", [D.Blobs(40, n_features=3), D.Linear(40, n_features=2), D.Linear(40, n_outputs=3)], ids=repr
)
@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_is_read(suffix, data, rows, tmp_path, monkeypatch):
    need(suffix)
    monkeypatch.setattr(writing, "ROWS", rows)
    monkeypatch.setattr(array_files, "_BLOCK", rows)
    monkeypatch.setattr(tables, "ROWS", rows)
    path, done = tmp_path / f"d{suffix}", []
    if suffix == ".npy" and data.outputs == 3:  # of which two would be read as features
        with pytest.raises(
            ValueError, match=r"d\.npy: an \.npy has one target, and the data have 3: write \.npz or \.h5$"
        ):
            D.write(data, path)
        return
    D.write(data, path, progress=done.append)
    assert done[-1] == 40
    assert os.listdir(tmp_path) == [path.name]
    again = D.read(path)
    assert (again.n, again.shape) == (data.n, data.shape)
    if suffix == ".npy":  # a table has one type, so labels are numbers there
        assert again.outputs == (data.outputs or 1)
        assert again.batch(range(4), HOST, "float32").y.shape == (4, again.outputs)
    else:
        assert (again.classes, again.outputs) == (data.classes, data.outputs)
    for index in (range(5, 31), np.array([39, 0, 7, 7, 20])):
        wanted = data.batch(index, HOST, "float32")
        got = again.batch(index, HOST, "float32")
        np.testing.assert_array_equal(got.x, wanted.x)
        np.testing.assert_array_equal(got.y.reshape(wanted.y.shape), wanted.y)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_written_with_its_names(suffix, tmp_path):
    """It had columns x0, x1, … and numbers for classes, which no model of the first table could read."""
    need(suffix)
    first, second = tmp_path / "a.csv", tmp_path / f"b{suffix}"
    first.write_text('q,"p, too",kind\n1.5,2,oak\n4,5,"ash, ""old"""\n3,7,ash\n')
    data = D.read(first, target="kind")
    D.write(D.Subset(data, [2, 0, 1]), second)
    again = D.read(second, columns=data.columns)
    assert (again.columns, D.read(second, target="kind").columns) == (data.columns, data.columns)
    for a, b in zip(parts(again, range(3)), parts(data, np.array([2, 0, 1])), strict=True):
        np.testing.assert_array_equal(a, b)
    numbers = tn.Arrays(X, X[:, :2])
    numbers.columns = D.Columns(("a", "y1", "c"), ())
    with pytest.raises(tn.DataFileError, match=f"b{suffix}: has two columns 'y1': rename one"):
        D.write(numbers, second)
    for name in ("weight", ""):  # the first would come back as weights of samples, the second not at all
        numbers.columns = D.Columns(("a", name, "c"), ())
        with pytest.raises(ValueError, match=f"a column '{name}' would not be read as a feature: rename it"):
            D.write(numbers, second)


@pytest.mark.long
def test_every_backend_trains_from_a_file(ops, tmp_path):
    D.write(D.Moons(400), tmp_path / "m.npz")
    model = tn.Model(tn.Sequential(tn.Dense(16), tn.Tanh(), tn.Dense(2)), 2, backend=ops)
    history = model.fit(str(tmp_path / "m.npz"), epochs=8, batch_size=20, optimizer=tn.Adam(0.05))
    assert history["loss"][-1] < 0.35
    assert model.evaluate(tmp_path / "m.npz")["accuracy"] > 0.8


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", ">f4"])
def test_npz_as_numpy_saves_it(compressed, dtype, tmp_path):
    x = np.asfortranarray((10 * X).astype(dtype))
    (np.savez_compressed if compressed else np.savez)(tmp_path / "d.npz", other=np.arange(3), X=x, y=Y, weight=W)
    data = D.read(tmp_path / "d.npz")
    assert data.classes == 4
    index = RNG.permutation(50)
    got = parts(data, index)
    for a, b in zip(got, (x, Y, W), strict=True):
        np.testing.assert_array_equal(a, b[index])
    mapped_file = Path(data.x.base.filename)
    assert (mapped_file == tmp_path / "d.npz") == (not compressed)  # in place where it can be


@pytest.mark.parametrize("kind", ["contiguous", "chunked", "big-endian"])
def test_hdf5_as_h5py_saves_it(kind, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="the format needs it")
    monkeypatch.setattr(array_files, "_BLOCK", 31)
    with h5py.File(tmp_path / "d.h5", "w") as f:
        options = {"chunks": (7, 2), "compression": "gzip"} if kind == "chunked" else {}
        f.create_dataset("X", data=X.astype(">f8" if kind == "big-endian" else "f8"), **options)
        f["y"], f["weight"] = X[:, :2], W
    data = D.read(tmp_path / "d.h5")
    got = parts(data, np.arange(50)[::-1].copy())
    for a, b in zip(got, (X, X[:, :2], W), strict=True):
        np.testing.assert_array_equal(a, b[::-1])
    assert (Path(data.x.base.filename) == tmp_path / "d.h5") == (kind != "chunked")


@pytest.mark.parametrize("chunks", [(50, 1), (7, 2), (3, 3), (1, 1), (64, 3)])
def test_a_chunk_of_hdf5_is_decoded_once(chunks, tmp_path, monkeypatch):
    """One with a part of every row was decoded for each block of rows, in time that grew as the square of their number."""
    h5py = pytest.importorskip("h5py", reason="the format needs it")
    monkeypatch.setattr(array_files, "_BLOCK", 31, raising=False)
    monkeypatch.setattr(inputs, "_PIECE", 31)
    with h5py.File(tmp_path / "d.h5", "w") as f:
        f.create_dataset("X", data=X, chunks=chunks, maxshape=(None, None))
        f["y"] = Y
    rows, columns = np.indices(X.shape)
    chunk_of, decoded = 3 * (rows // chunks[0]) + columns // chunks[1], []
    original = h5py.Dataset.__getitem__

    def decode(data, at):
        if data.name == "/X":
            decoded.extend(np.unique(chunk_of[at]))
        return original(data, at)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", decode)
    for read in (lambda p: D.read(p).x, lambda p: np.concatenate(list(inputs.read_inputs(str(p), (3,))))):
        decoded.clear()
        np.testing.assert_array_equal(read(tmp_path / "d.h5"), X)
        assert sorted(decoded) == np.unique(chunk_of).tolist()


def test_numbers_of_hdf5_that_numpy_has_not(tmp_path):
    """Contiguous, but in bytes that are no numbers of NumPy's: bfloat16, and whole numbers of 20 bits."""
    h5py = pytest.importorskip("h5py", reason="the format needs it")
    brain, bits = h5py.h5t.IEEE_F16LE.copy(), h5py.h5t.STD_I32LE.copy()
    brain.set_fields(15, 7, 8, 0, 7)
    brain.set_ebias(127)
    bits.set_precision(20)
    bits.set_offset(4)
    x = np.arange(12.0).reshape(6, 2)
    with h5py.File(tmp_path / "d.h5", "w") as f:
        for name, kind, a in (("X", brain, x), ("y", bits, x[:, 0].astype(int))):
            data = h5py.h5d.create(f.id, name.encode(), kind, h5py.h5s.create_simple(a.shape))
            h5py.Dataset(data)[...] = a
    got = parts(D.read(tmp_path / "d.h5"), range(6))
    np.testing.assert_array_equal(got[0], x)
    np.testing.assert_array_equal(got[1], x[:, 0])


def test_an_array_in_another_file_of_hdf5(tmp_path):
    """What the other file has at that place is mapped, not what this one has."""
    h5py = pytest.importorskip("h5py", reason="the format needs it")
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["a"] = X
    with h5py.File(tmp_path / "d.h5", "w") as f:
        f["X"], f["y"] = h5py.ExternalLink("x.h5", "a"), Y
        f["more"] = np.ones(2000)
    np.testing.assert_array_equal(parts(D.read(tmp_path / "d.h5"), range(50))[0], X)


def test_labels_of_a_floating_type(tmp_path):
    """Numbers, unless the task says otherwise; then they must be whole."""
    np.save(tmp_path / "d.npy", np.column_stack([X, Y]))
    np.savez(tmp_path / "d.npz", X=X, y=Y.astype(np.float32))
    np.savez(tmp_path / "column.npz", X=X, y=Y.reshape(-1, 1))  # which are numbers in any dtype
    for path in (tmp_path / "d.npy", tmp_path / "d.npz", tmp_path / "column.npz"):
        assert D.read(path).outputs == 1
        data = D.read(path, task="classification")
        assert data.classes == 4
        np.testing.assert_array_equal(parts(data, range(50))[1], Y)
    for wrong in (0.5, np.nan, np.inf):
        np.save(tmp_path / "y.npy", np.where(np.arange(50) == 7, wrong, Y))
        with pytest.raises(tn.DataFileError) as e:
            D.read(tmp_path / "d.npy", target=tmp_path / "y.npy", task="classification")
        assert str(e.value) == f"{tmp_path / 'd.npy'}: y is {wrong} in row 7, which is not a label: give whole numbers"


def test_tables_with_columns_of_all_kinds(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the format needs it")
    import pyarrow.parquet as pq

    columns = {
        "b": Y > 1,
        "target": Y.astype(np.int8),
        "h": X[:, 0].astype(np.float16),
        "weight": W,
        "u": Y.astype(np.uint16),
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet", row_group_size=9)
    data = D.read(tmp_path / "d.parquet")
    assert (data.shape, data.classes) == ((3,), 4)
    assert data.x.dtype == np.float32
    x, y, w = parts(data, range(50))
    np.testing.assert_array_equal(x, np.column_stack([columns["b"], columns["h"], columns["u"]]))
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(w, W)
    other = D.read(tmp_path / "d.parquet", target="h")
    assert (other.shape, other.outputs) == ((3,), 1)
    columns["i"] = Y.astype(np.int64) + 2**40
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    data = D.read(tmp_path / "d.parquet")
    assert data.x.dtype == np.float64
    np.testing.assert_array_equal(parts(data, range(50))[0][:, 3], columns["i"])
    columns["price"] = pa.array(X[:, 1]).cast(pa.decimal128(30, 20), safe=False)  # as databases have it
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    for found in (D.read(tmp_path / "d.parquet").x[:, -1], D.read(tmp_path / "d.parquet", target="price").y[:, 0]):
        np.testing.assert_allclose(found, X[:, 1], rtol=1e-15)


def test_csv_as_people_write_it(tmp_path):
    pytest.importorskip("pyarrow", reason="the format needs it")
    (tmp_path / "d.csv").write_text('\ufeff"a",b,y\n1,2,0\n3,4.5,1\n-1e3,0,1\n')
    data = D.read(tmp_path / "d.csv")
    x, y, _ = parts(data, range(3))
    assert x.tolist() == [[1, 2], [3, 4.5], [-1000, 0]]
    assert y.tolist() == [0, 1, 1]
    assert D.read(tmp_path / "d.csv", target="b").outputs == 1
    (tmp_path / "d.tsv").write_bytes(b"\r\n\na\tb\ty\r\n1\t2\t0\r\n\r\n3\t4\t1\r\n\r\n")
    assert parts(D.read(tmp_path / "d.tsv"), range(2))[0].tolist() == [[1, 2], [3, 4]]
    (tmp_path / "d.csv").write_text("a;b;y;;\n1,5;2;0;;\n3;4;1;;x\n")  # a spreadsheet's empty columns, and a note there
    assert parts(D.read(tmp_path / "d.csv"), range(2))[0].tolist() == [[1.5, 2], [3, 4]]


def test_a_model_reads_a_file_as_its_table(tmp_path):
    """By path, too: 'b' is the second class, though it is the first in this file, and v stands before u."""
    pytest.importorskip("pyarrow", reason="the format needs it")
    (tmp_path / "a.csv").write_text("u,v,target\n0,9,a\n1,8,b\n2,7,c\n")
    (tmp_path / "b.csv").write_text("v,u,target\n8,1,b\n7,2,c\n")
    model = tn.Model(tn.Dense(3), 2)
    model.fit(str(tmp_path / "a.csv"), validation=str(tmp_path / "b.csv"))
    wanted = model.evaluate(([[1.0, 8.0], [2.0, 7.0]], [1, 2]))
    assert model.evaluate(str(tmp_path / "b.csv")) == wanted
    assert model.history[-1]["val_loss"] == wanted["loss"]
    with pytest.raises(ValueError, match="does not continue .*: the columns of their features differ"):
        D.Concatenated([D.read(tmp_path / name) for name in ("a.csv", "b.csv")])
    (tmp_path / "a.csv").write_text("u,y0,y1\n0,9,8\n")
    (tmp_path / "b.csv").write_text("u,y1,y0\n0,8,9\n")
    with pytest.raises(ValueError, match="does not continue .*: the columns of their targets differ"):
        D.Concatenated([D.read(tmp_path / name) for name in ("a.csv", "b.csv")])


def test_shards_are_one_data_set_in_order(ops, tmp_path):
    pytest.importorskip("pyarrow", reason="one of the formats needs it")
    data = D.Blobs(100, n_features=3)
    paths = []
    for number, (start, stop) in enumerate(((0, 10), (10, 11), (11, 70), (70, 100))):
        paths.append(tmp_path / f"{number}{FORMATS[1 + number % 2]}")
        D.write(D.Part(data, start, stop), paths[-1])
    whole = D.as_dataset(paths)
    assert (len(whole), whole.classes, whole.shape) == (100, 3, (3,))
    for index in (range(100), range(9, 12), range(5, 5), np.array([99, 0, 10, 70, 69, 10]), RNG.permutation(100)):
        got, wanted = whole.batch(index, ops, "float32"), data.batch(index, ops, "float32")
        np.testing.assert_array_equal(ops.to_numpy(got.x), ops.to_numpy(wanted.x))
        np.testing.assert_array_equal(ops.to_numpy(got.y), ops.to_numpy(wanted.y))
    assert whole.fingerprint() != D.Concatenated(whole.parts[::-1]).fingerprint()
    with pytest.raises(ValueError, match=r"does not continue .*: shapes or kinds of target differ"):
        D.Concatenated([data, D.Moons(9)])
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(tn.DataFileError, match="one file of targets for 2 files: store X and y of each as .npz"):
        D.read([tmp_path / "x.npy"] * 2, target=tmp_path / "y.npy")  # each shard had the targets of the first


def test_fingerprints_tell_contents_apart_and_nothing_else(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=Y)
    np.savez_compressed(tmp_path / "b.npz", X=X, y=Y)
    prints = {D.read(tmp_path / name).fingerprint() for name in ("a.npz", "b.npz")} | {tn.Arrays(X, Y).fingerprint()}
    assert len(prints) == 1
    changed = X.copy()
    changed[49, 2] += 1e-12
    for other in (tn.Arrays(changed, Y), tn.Arrays(X, (Y + 1) % 4), tn.Arrays(X, Y, W), tn.Arrays(X[:49], Y[:49])):
        assert other.fingerprint() not in prints


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_pickle_of_a_file_reads_it_again(suffix, tmp_path, monkeypatch):
    need(suffix)
    monkeypatch.chdir(tmp_path)
    D.write(D.Blobs(40, n_features=3), f"d{suffix}")
    data = D.read(f"d{suffix}", task="regression" if suffix == ".csv" else None)
    pickled = pickle.dumps(data.split(0.5)[1])
    assert len(pickled) < 2000
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert again.whole.columns == data.columns
    for a, b in zip(again.batch(range(20), HOST, "float64"), parts(data, range(20, 40)), strict=True):
        np.testing.assert_array_equal(a, b)
    D.write(D.Blobs(40, n_features=3, seed=1), tmp_path / f"d{suffix}")
    with pytest.raises(tn.DataFileError, match=f"d{suffix}: has changed since the data set was pickled: read it again"):
        pickle.loads(pickled)


def test_a_pickle_of_shards_numbers_classes_as_they_do_together(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="the format needs it")
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("q,p,id,kind\n1,2,3,oak\n4,5,6,elm\n")
    Path("b.csv").write_text("id,q,kind,p\n1,2,ash,3\n4,5,oak,6\n")
    data = D.read(["a.csv", "b.csv"], target="kind", exclude=["id"])
    again = pickle.loads(pickle.dumps(data))
    assert (again.columns, again.classes) == (data.columns, 3)
    for a, b in zip(parts(again, range(4)), parts(data, range(4)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    pickled = pickle.dumps(D.read("x.npy", target="y.npy"))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(parts(pickle.loads(pickled), range(50))[1], Y)


def test_a_pickle_of_mapped_arrays_holds_their_numbers(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(resident, "RELEASE", 100)
    data = tn.Arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), Y)
    again = pickle.loads(pickle.dumps(data))
    assert (len(data._maps), again._maps) == (1, [])
    np.testing.assert_array_equal(parts(again, np.arange(50))[0], parts(data, np.arange(50))[0])


@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {"balance": True}, {"weights": W}], ids=["", "balance", "weights"]
)
def test_a_loader_can_be_pickled(options):
    loader = tn.Loader(tn.Arrays(X, Y), 8, seed=3, **options)
    before = [loader.batch(t, HOST, "float32").x.copy() for t in range(20)]
    again = pickle.loads(pickle.dumps(loader))
    assert again._kept is None  # the batches that were made last
    for t in (19, 0, 7):
        np.testing.assert_array_equal(again.batch(t, HOST, "float32").x, before[t])


def test_scratch_files_go_with_the_data_set(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    np.savez_compressed(tmp_path / "d.npz", X=X, y=Y)
    data = D.read(tmp_path / "d.npz")
    (folder,) = scratch.iterdir()
    assert {f.name for f in folder.iterdir()} == {"X.bin", "y.bin"}
    del data
    gc.collect()
    assert list(scratch.iterdir()) == []
    np.savez_compressed(tmp_path / "d.npz", X=X)
    with pytest.raises(tn.DataFileError):
        D.read(tmp_path / "d.npz")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_becomes_too_large_to_write(suffix, begun, tmp_path, monkeypatch):
    """As on a full disk or beyond a quota. HDF5 aborted the process: what it cannot write it tries again at its end."""
    need(suffix)
    resource = pytest.importorskip("resource", reason="limits are POSIX")
    monkeypatch.setattr(writing, "ROWS", 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(done):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        if not begun:
            limit(0)
        with pytest.raises(OSError) as e:
            D.write(D.Moons(50_000), tmp_path / f"d{suffix}", progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (e.value.errno, e.value.filename) == (errno.EFBIG, str(tmp_path / f"d{suffix}"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv", ".parquet"])
def test_a_disk_without_room_for_scratch_files(suffix, tmp_path, monkeypatch):
    """It was the data file that could not be read."""
    need(suffix)
    resource = pytest.importorskip("resource", reason="limits are POSIX")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    path = tmp_path / f"d{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, X=np.zeros((5000, 3)), y=np.zeros(5000))
    elif suffix == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as f:
            f.create_dataset("X", data=np.zeros((5000, 3)), compression="gzip")
            f["y"] = np.zeros(5000)
    else:
        D.write(D.Moons(5000), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError) as e:
            D.read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.filename == str(scratch)
    assert e.value.strerror == f"{os.strerror(errno.EFBIG)}: set TMPDIR to a folder on a larger disk"
    assert list(scratch.iterdir()) == []


def test_sample_weights_are_not_left_out_in_silence(tmp_path):
    with pytest.raises(ValueError, match="sample weights are not written: numpy"):
        D.write(tn.Arrays(X, Y, W), tmp_path / "d.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(suffix, tmp_path, monkeypatch):
    need(suffix)
    path = tmp_path / f"d{suffix}"
    path.write_bytes(b"old")
    monkeypatch.setattr(writing, "ROWS", 10)

    def stop(done):
        if done == 30:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        D.write(D.Moons(100), path, progress=stop)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


# Memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def maps(monkeypatch):
    """No map is known yet, and those of 160 KiB are large."""
    found = resident.Maps()
    monkeypatch.setattr(resident, "MAPS", found)
    monkeypatch.setattr(resident, "RELEASE", 10 * 2**14)
    monkeypatch.setattr(resident, "FAULT", 2**14)
    monkeypatch.setattr("tinynet.data.arrays._PIECE", 1000)
    return found


def test_pages_of_large_maps_are_let_go(tmp_path, monkeypatch, maps):
    monkeypatch.setattr(resident, "_resident", lambda: None)  # as where the system does not say
    x = RNG.standard_normal((20_000, 4))
    np.save(tmp_path / "x.npy", x)
    y = np.arange(20_000) % 3
    data = tn.Arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    calls = []
    touch = maps.touch
    monkeypatch.setattr(maps, "touch", lambda size: (calls.append(size), touch(size)))
    for _ in range(5):
        index = RNG.integers(0, 20_000, 100)
        np.testing.assert_array_equal(parts(data, index)[0], x[index])
        assert maps._touched <= resident.RELEASE
    assert calls == [10 * 2**14] * 50
    pages = [2**40]  # other files of the process
    monkeypatch.setattr(resident, "_resident", lambda: pages[0])
    del data
    data = tn.Arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    touched = maps._touched
    touch(2**30)
    assert maps._touched == touched + 2**30
    pages[0] += resident.RELEASE + 1
    touch(1)
    assert maps._touched == 0
    touch(1)  # what is still resident is not ours
    assert maps._touched == 1
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0, 0] = 5.0  # a change that is nowhere but in the page
    data = tn.Arrays(private, y)
    assert data._maps == []
    assert parts(data, range(1))[0][0, 0] == 5.0


def test_pages_of_many_small_maps_are_let_go(tmp_path, maps):
    """Each shard alone could stay resident."""
    x = RNG.standard_normal((2000, 4))
    paths, y = [tmp_path / f"{number}.npy" for number in range(4)], np.arange(2000) % 3
    for path in paths:
        np.save(path, x)
    data = D.Concatenated([tn.Arrays(np.load(path, mmap_mode="r"), y) for path in paths])
    assert all(len(part._maps[0]) < resident.RELEASE for part in data.parts)
    maps._before = -(2**40)  # much has become resident
    np.testing.assert_array_equal(parts(data, np.arange(1990, 2010))[0], np.concatenate([x[-10:], x[:10]]))
    assert maps.large
    assert maps._before >= 0
    del data
    tn.Arrays(np.load(tmp_path / "0.npy", mmap_mode="r"), np.ones(2000))
    assert not maps.large


def test_writing_takes_the_memory_of_some_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "ROWS", 4096)
    D.write(D.Spirals(10), tmp_path / "data.npz")  # what is imported takes memory, too
    tracemalloc.start()
    D.write(D.Spirals(200_000), tmp_path / "data.npz")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200_000 * 8


MEASURED = """
import sys; sys.path[:0] = {path!r}
import numpy as np, tinynet as tn
from tinynet.data import resident
resident.RELEASE = 2**25
def pages():
    lines = [line.split() for line in open("/proc/self/status") if line.startswith(("RssFile", "RssAnon"))]
    return np.array([int(line[1]) / 1024 for line in lines])
import h5py, pyarrow.csv, pyarrow.parquet
before = most = pages()
loader = tn.Loader(tn.data.read(sys.argv[1:]), 4096, shuffle=True)
for t in range(10):
    loader.batch(t, tn.get_backend("numpy"), "float32")
    most = np.maximum(most, pages())
print(*most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed.npz", "h5", "parquet", "csv", "shards"])
def test_resident_memory_is_bounded(kind, tmp_path):
    """Random rows of 80 MB, or 240 MB of Parquet, all of which would be resident in the end."""
    n = 1_500_000 if kind == "parquet" else 500_000
    data = D.Blobs(n, n_features=40)
    if kind == "shards":
        paths = [tmp_path / f"{number}.npy" for number in range(4)]
        for number, path in enumerate(paths):
            D.write(data.shard(number, 4), path)
    elif kind == "compressed.npz":
        paths = [tmp_path / kind]
        x, y, _ = data[:n]
        np.savez_compressed(paths[0], X=x * 0 + y[:, None], y=y)
    else:
        paths = [tmp_path / f"data.{kind}"]
        D.write(data, paths[0])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(path=sys.path), *map(str, paths)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    private, mapped = map(float, done.stdout.split())
    # 35 MB of batches; pages, dictionaries and what Arrow keeps for all columns are 120 to 145 MB, of any number of rows
    assert private < (220 if kind == "parquet" else 120), private
    assert mapped < 2 * 32 + 20, mapped  # and the libraries' own


# Bad files --------------------------------------------------------------------------------------------------------


def npy(path, header, body=b""):
    header = header.encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)


def npz(path, **members):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members.items():
            z.writestr(name.replace("__", "/") + ".npy", content)


def h5(path, **data):
    """Arrays; nothing for None; for a shape zeros in parts, none of which is written."""
    import h5py

    with h5py.File(path, "w") as f:
        for name, a in data.items():
            if isinstance(a, tuple):
                f.create_dataset(name, a, "f4", chunks=(1024, 1024))
            else:
                f[name] = h5py.Empty("f4") if a is None else a


def member(shape, descr="<f8", body=None):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    content = np.zeros(shape).tobytes() if body is None else body
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def test_line_breaks_in_quotes_wherever_a_block_ends(tmp_path, monkeypatch):
    """The part before a block's end was a value of its own, and what followed the next row, in silence."""
    need(".csv")
    path, values = tmp_path / "notes.csv", ["plain", '"two\nlines"', '"a ""b""\n7,8"', '5" pipe', '"\n"', "end"]
    path.write_text("a,y\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values)), newline="")
    with open(path, newline="") as f:
        rows = list(csv.reader(f))[1:]
    for size in range(1, 60, 3):
        monkeypatch.setattr(csv_table, "_BLOCK", size)
        data = tn.data.read(path)
        batch = data[:]
        assert [[f"{x:.0f}", data.columns.classes[y]] for (x,), y in zip(batch.x, batch.y, strict=True)] == rows


BAD = {
    "objects.npy": (lambda p: np.save(p, np.array([[1, None]], object)), "cannot be read: "),
    "pickle.npy": (lambda p: p.write_bytes(b"\x80\x04K\x01."), "not an .npy file"),
    "empty.npy": (lambda p: p.write_bytes(b""), "not an .npy file"),
    "magic.npy": (lambda p: p.write_bytes(b"\x93NUMPX" + b"0" * 200), "not an .npy file"),
    "short.npy": (
        lambda p: npy(p, "{'descr': '<f8', 'fortran_order': False, 'shape': (9, 3), }", b"\0" * 100), "cannot be read: "),
    "huge.npy": (
        lambda p: npy(p, "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 3), }"), "cannot be read: "),
    "overflowing.npy": (
        lambda p: npy(p, f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, {2**62}), }}"), "cannot be read: "),
    "zeros.npy": (lambda p: p.write_bytes(bytes(999)), "not an .npy file"),
    "code.npy": (lambda p: npy(p, "__import__('os').system('false')"), "cannot be read: "),
    "vector.npy": (lambda p: np.save(p, np.zeros(5)), "(5,) is not a table with a target: give two columns"),
    "text.npy": (lambda p: np.save(p, np.array([["a", "b"]])), "X of dtype <U1 is not numeric: give real or whole numbers"),
    "nan.npy": (lambda p: np.save(p, [[1, 2.0], [np.nan, 1]]), "X has a value that is NaN or infinite: first in row 1"),
    "none.npy": (lambda p: np.save(p, np.zeros((0, 3))), "X (0, 2) has no samples: give at least one"),
    "folder.npy": (lambda p: p.mkdir(), "not a regular file"),
    "fifo.npy": (lambda p: os.mkfifo(p) if hasattr(os, "mkfifo") else p.mkdir(), "not a regular file"),
    "d.txt": (lambda p: p.write_text("1"), "unknown kind of file: choose from .npy, .npz, .h5, .hdf5, .parquet, .csv"),
    "no.npz": (lambda p: p.write_bytes(b"PK\x03\x04no"), "cannot be read: File is not a zip file"),
    "noy.npz": (lambda p: np.savez(p, X=X), "has no array 'y', but X: store it under that name"),
    "path.npz": (lambda p: npz(p, **{"..__X": member((2, 2)), "y": member((2,))}), "has no array 'X', but ../X, y: store it"),
    "objects.npz": (lambda p: npz(p, X=member((1, 1), "|O", b"12345678"), y=member((1,))),
                    "X.npy holds Python objects, which are not read: store numbers"),
    "long.npz": (lambda p: npz(p, X=member((2, 2), body=b"\0" * 999), y=member((2,))), "X.npy has 999 bytes: expected 32"),
    "bomb.npz": (lambda p: npz(p, X=member((10**9, 10**3), body=b""), y=member((2,))),
                 "X.npy has 0 bytes: expected 8000000000000"),
    "rows.npz": (lambda p: np.savez(p, X=X, y=Y[:9]), "y (9,) does not fit X (50, 3): expected 50 rows"),
    "negative.npz": (
        lambda p: np.savez(p, X=X, y=Y - 1),
        f"y has a negative label, and classes are numbered from 0: first in row {int(np.argmin(Y))}"),
    "weight.npz": (lambda p: np.savez(p, X=X, y=Y, weight=-W), "weight has a negative value: first in row 0"),
    "no.parquet": (lambda p: p.write_bytes(b"PAR1no"), "cannot be read: "),
    "no.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "cannot be read: "),
    "latinhead.csv": (lambda p: p.write_bytes(b"gr\xf6\xdfe,y\n1,2\n"), "is not text in UTF-8: save the file in that encoding"),
    "utf16.csv": (lambda p: p.write_text("a,y\n1,2\n", "utf-16"), "is not text in UTF-8: save the file in that encoding"),
    "mac.csv": (lambda p: p.write_bytes(b"a,y\r1,2\r"), "its lines end in a carriage return alone: save it with other line ends"),
    "blank.csv": (lambda p: p.write_text("\n \n"), "is empty: expected a first line with the names of columns"),
    "oneline.csv": (lambda p: p.write_bytes(b"a," * 2**23), "its first line is longer than 16 MiB: is it a table?"),
    "onerow.csv": (lambda p: p.write_bytes(b"a,y\n1," + b"2" * (2**24 + 2**20)),
                   "has a row longer than 16 MiB: is it a table, with each quote closed?"),
    "comma.csv": (lambda p: p.write_text('a,y\n1,1\n"2,5",1\n'),
                  "column 'a' has '2,5' in row 1, which is no number: write it with a decimal point"),
    "spaces.csv": (lambda p: p.write_text("a, y\n1, 2\n"), "has no column y or target: name the target, out of a, ' y'"),
    "empty.csv": (lambda p: p.write_text(""), "is empty: expected a first line with the names of columns"),
    "header.csv": (lambda p: p.write_text("a,b,y\n"), "has no rows"),
    "notarget.csv": (lambda p: p.write_text("a,b\n1,2\n"), "has no column y or target: name the target, out of a, b"),
    "double.csv": (lambda p: p.write_text("a,a,y\n1,2,3\n"), "has two columns 'a': rename one"),
    "words.csv": (lambda p: p.write_text("a,y\n1,1\nred,1\n"),
                  "column 'a' has 'red' in row 1, which is no number: fix or drop it, or exclude the column"),
    "mixed.csv": (lambda p: p.write_text("a,y\n1,1\n2,cat\n"),
                  "column 'y' mixes numbers and text, as '1' and 'cat': fix it, or say that the task is classification"),
    "noclass.csv": (lambda p: p.write_text("a,y\n1,cat\n2,\n"), "column 'y' has no value in row 1: fill or drop it"),
    "void.csv": (lambda p: p.write_text("a,y\n1,\n2,\n"), "column 'y' has no value in any row"),
    "latin.csv": (lambda p: p.write_bytes(b"a,y\n1,caf\xe9\n"), "column 'y' is not text in UTF-8: save the file in that"),
    "many.csv": (lambda p: p.write_text("a,y\n" + "".join(f"1,v{i}\n" for i in range(1001))),
                 "column 'y' has more than 1000 different values, too many for classes: if they are numbers, the task is"),
    "gap.csv": (lambda p: p.write_text("a,y\n1,1\n,2\n"), "column 'a' has no finite number in row 1: fill or drop it"),
    "inf.csv": (lambda p: p.write_text("a,y\n1,1\n1,0\ninf,1\n"), "column 'a' has no finite number in row 2: fill or drop it"),
    "onlyy.csv": (lambda p: p.write_text("y\n1\n"), "has no features beside y"),
    "ragged.csv": (lambda p: p.write_text("a,y\n1,2\n1,2,3\n"),
                   "row 1 has 3 values for 2 columns: fix it, and put a value that contains ',' in quotes"),
    "wide.csv": (lambda p: p.write_text(",".join(f"c{i}" for i in range(3000)) + "\n"),
                 f"has no column y or target: name the target, out of {', '.join(f'c{i}' for i in range(20))} and 2980 more"),
    "long.csv": (lambda p: p.write_text(f"{'c' * 99},b\n1,2\n"),
                 f"has no column y or target: name the target, out of {'c' * 57}..., b"),
    "group.h5": (lambda p: h5(p, **{"X/a": X, "y": Y, "Z": None}), "has no data set 'X', but y, X/a: store X"),
    "void.h5": (lambda p: h5(p, X=None, y=Y), "has no data set 'X', but y"),
    "zeros.h5": (lambda p: h5(p, X=(2**40, 2**20), y=Y), f"decoded it takes {2**62} bytes, and "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_it(name, tmp_path):
    need(Path(name).suffix)
    make, said = BAD[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(tn.DataFileError) as e:
        D.read(path)
    assert str(e.value).startswith(f"{path}: {said}")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_checksum_in_a_file_is_looked_at(suffix, tmp_path):
    """A bit of a number in the middle of a file: no form of it is broken."""
    need(suffix)
    path = tmp_path / f"d{suffix}"
    D.write(D.Linear(5000, n_features=2), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(tn.DataFileError, match=f"d{suffix}: cannot be read: .*CRC"):
        D.read(path)


def test_missing_files_and_loops_are_the_system_s_errors(tmp_path):
    names = ["missing.npy"]
    if os.name == "posix":
        names.append("loop.npy")
        (tmp_path / "loop.npy").symlink_to(tmp_path / "loop.npy")
    for name in names:
        with pytest.raises(OSError, match=name):
            D.read(tmp_path / name)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(OSError, match=r"missing\.npy"):
        D.read(tmp_path / "x.npy", target=tmp_path / "missing.npy")
    with pytest.raises(tn.DataFileError, match=r"not a regular file$"):
        D.read(tmp_path / "x.npy", target=tmp_path)  # a pipe would be waited for


def test_tables_are_read_and_written_without_pandas(tmp_path):
    """Arrow imports it before it takes or makes a NumPy array, for half a second; and what a signal raises there, it drops."""
    pa = pytest.importorskip("pyarrow", reason="the formats need it")
    pytest.importorskip("pandas", reason="what is not there is not imported")
    from pyarrow import parquet

    decimals = pa.array([0.5, 1.5]).cast(pa.decimal128(30, 20))
    parquet.write_table(pa.table({"a": [3, 7], "y": decimals}), tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("a,b,y\n1,true,x\n2.5,false,ß\n", "utf-8")
    code = """
import sys, numpy, tinynet as tn
from tinynet.data.outputs import output_writer
tn.data.write(tn.data.read("d.csv"), "d.parquet")
tn.data.write(tn.data.read("d.parquet"), "e.csv")
tn.data.read("c.parquet")
with output_writer("o.parquet", ["name", "yes"]) as write:
    write([numpy.asarray(["ß", "x"]), numpy.asarray([False, True])])
print("pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert (tmp_path / "e.csv").read_text("utf-8") == '"a","b","y"\n1,1,"x"\n2.5,0,"ß"\n'
    assert parquet.read_table(tmp_path / "o.parquet").to_pydict() == {"name": ["ß", "x"], "yes": [False, True]}


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)
    for suffix in (".parquet", ".h5"):
        (tmp_path / f"d{suffix}").write_bytes(b"x")
        with pytest.raises(
            ValueError, match=r"d\.(parquet|h5): .* is needed for this kind of file: install the extra files"
        ):
            D.read(tmp_path / f"d{suffix}")
        with pytest.raises(ValueError, match="is needed for this kind of file: install the extra files"):
            D.write(D.Moons(9), tmp_path / f"e{suffix}")
    assert len(os.listdir(tmp_path)) == 2


def small_files(folder):
    """One small file of each kind that can be made here."""
    for suffix in FORMATS:
        try:
            D.write(D.Blobs(20, n_features=2), folder / f"d{suffix}")
        except ValueError:
            continue
        yield folder / f"d{suffix}"
    np.savez_compressed(folder / "c.npz", X=X, y=Y)
    yield folder / "c.npz"


def readable_or_refused(path):
    said = f"{path}: one line"
    try:
        data = D.read(path)
        data.batch(range(min(5, data.n)), HOST, "float32")
    except (ValueError, OSError) as e:
        said = str(e)
    assert path.name in said
    assert "\n" not in said


def test_names_within_a_file_do_not_break_the_line(tmp_path):
    np.savez(tmp_path / "d.npz", **{"X\n\u2028Z": X, "y": Y})
    with pytest.raises(tn.DataFileError, match=r"d\.npz: has no array 'X', but X  Z, y: store it under that name$"):
        D.read(tmp_path / "d.npz")


def test_an_error_is_a_line_to_read_whatever_a_cell_holds(tmp_path):
    (tmp_path / "d.csv").write_text("x0,x1,y\n1,2,0\n3,\x1b[31m" + 10**6 * "\x07" + "\x00,1\n")
    with pytest.raises(tn.DataFileError, match=r"d\.csv: ") as caught:
        D.read(tmp_path / "d.csv")
    assert len(str(caught.value)) < 1200
    assert str(caught.value).isprintable()


def test_damaged_files_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(1)
    for path in small_files(tmp_path):
        content = path.read_bytes()
        for _ in range(25):
            damaged = bytearray(content)
            for _ in range(int(rng.integers(1, 4))):
                damaged[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(damaged)
            readable_or_refused(path)
        for end in rng.integers(0, len(content), 10):
            path.write_bytes(content[: int(end)])
            readable_or_refused(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_the_readers_under_fire(suffix, tmp_path):
    hypothesis = pytest.importorskip("hypothesis", reason="it makes up the files")
    need(suffix)
    st = hypothesis.strategies
    good = tmp_path / f"good{suffix}"
    D.write(D.Blobs(20, n_features=2), good)
    content = good.read_bytes()
    edits = st.lists(st.tuples(st.integers(0, len(content) - 1), st.binary(max_size=9), st.integers(0, 9)), max_size=5)

    @hypothesis.settings(max_examples=500, deadline=None, database=None)
    @hypothesis.given(edits)
    def fire(edits):
        damaged = content
        for place, new, cut in edits:
            damaged = damaged[:place] + new + damaged[place + cut :]
        path = tmp_path / f"d{suffix}"
        path.write_bytes(damaged)
        readable_or_refused(path)

    fire()


# Batches that are handed in ---------------------------------------------------------------------------------------


def some(n=6):
    for t in range(n):
        yield X[8 * t : 8 * t + 8], Y[8 * t : 8 * t + 8]


def test_an_iterator_trains_as_the_same_batches_do(ops):
    a, b = (tn.Model(tn.Sequential(tn.Dense(5), tn.Tanh(), tn.Dense(4)), 3, backend=ops) for _ in range(2))
    a.fit(D.Batches(some(), steps=3), epochs=2)
    b.fit((X[:48], Y[:48]), batch_size=8, shuffle=False)
    np.testing.assert_array_equal(ops.to_numpy(a.theta), ops.to_numpy(b.theta))
    assert a.history["step"] == [3, 6]


def test_a_list_starts_anew_each_epoch():
    a, b = (tn.Model(tn.Dense(4), 3) for _ in range(2))
    a.fit(D.Batches(list(some())), epochs=3)
    b.fit((X[:48], Y[:48]), batch_size=8, shuffle=False, epochs=3)
    assert a.theta.tobytes() == b.theta.tobytes()


def test_a_list_serves_several_runs():
    """Also after a run that ended in the middle of an epoch; a source that is drawn from only once says so."""
    batches, once = D.Batches(list(some())), D.Batches(some(), steps=3)
    for _ in range(2):
        drain(batches, range(4))
        a, b = (tn.Model(tn.Dense(4), 3) for _ in range(2))
        a.fit(batches, epochs=2)
        b.fit((X[:48], Y[:48]), batch_size=8, shuffle=False, epochs=2)
        assert a.theta.tobytes() == b.theta.tobytes()
    a.fit(once)
    with pytest.raises(ValueError, match=r"cannot go to step 0 \(the next is 3\)"):
        a.fit(once)


def test_a_data_loader_of_pytorch_will_do():
    torch = pytest.importorskip("torch", reason="its loader is tried")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=10, shuffle=True)
    model = tn.Model(tn.Dense(4), 3)
    assert len(model.fit(D.Batches(loader), epochs=2)) == 2
    assert model.history[1]["step"] == 10


def drain(batches, steps):
    for t in steps:
        batches.batch(t, HOST, "float32")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: D.Batches(some()), "an iterator has no length: say how many steps an epoch has, Batches(source, steps=…)"),
        (lambda: D.Batches([]), "the source of batches is empty: give at least one"),
        (lambda: D.Batches(iter([]), steps=2), "the source of batches is empty: give at least one"),
        (lambda: D.Batches(some(), steps=0), "Batches steps 0 is not a positive whole number"),
        (lambda: drain(D.Batches([(X, Y), (X * np.inf, Y)]), range(2)),
         "batch 1: X has a value that is NaN or infinite: first in row 0"),
        (lambda: D.Batches([3]), "a batch is (x, y) or (x, y, weight), not int"),
        (lambda: drain(D.Batches(some(), steps=9), range(9)),
         "the source of batches ended after 6, and an epoch has 9: say how many with steps=…"),
        (lambda: drain(D.Batches(some(), steps=6), [0, 1, 0]),
         "batches that are handed in cannot go to step 0 (the next is 2): give a data set or a path, which can"),
        (lambda: drain(D.Batches([(X, Y), (X[:, :2], Y)]), range(2)),
         ("batch 1 is Arrays(X (50, 2), y (50,), on numpy), and the first was Arrays(X (50, 3), y (50,), on numpy): "
          "shapes or targets differ")),
        (lambda: tn.Model(tn.Dense(4), 3).fit(D.Batches([(X, Y), (X, Y), (X, np.where(np.arange(50) == 7, 4, Y))])),
         "batch 2: CrossEntropy: labels must be in [0, 4), the numbers of the outputs; row 7 is 4"),
        (lambda: tn.Model(tn.Dense(2), 3).fit(D.Batches([(X, Y)])),
         "CrossEntropy: labels must be in [0, 2), the numbers of the outputs; row 1 is 2"),
    ],
)  # fmt: skip
def test_mistakes_with_batches(make, said):
    with pytest.raises((ValueError, TypeError)) as e:
        make()
    assert str(e.value).startswith(said)
