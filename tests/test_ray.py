"""Workers on a real Ray on this machine: the table is that of one process, and workers may die."""

import contextlib
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

import rhlens as rh
from rhlens.scale import cluster, workers
from rhlens.scale.worker import Worker
from tests.test_cli import run
from tests.test_interruption import lines_of
from tests.test_scale import keys_of, same

try:
    ray = cluster.imported()
except ValueError:
    pytest.skip("Ray is not installed", allow_module_level=True)
pytestmark = pytest.mark.usefixtures("in_time")


@pytest.fixture(scope="module")
def two():
    """Two workers with the planted Llama, on a Ray that is started for them."""
    with rh.ray_workers("planted-llama", 2, device="cpu") as found:
        yield found


@pytest.fixture
def in_time():
    """Nothing here hangs."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still waiting for Ray"))
    signal.alarm(500)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def bare(load=lambda: SimpleNamespace(cfg=SimpleNamespace(model_name="none"), tokenizer=None)):
    """A worker without a model, quick to come and go."""
    return rh.ray_workers(load, 1, num_gpus=0)


def kill_one(pool, out, after: int) -> threading.Thread:
    """Kill a worker of `pool` once so many units are there."""

    def watch():
        while len(lines_of(out)) < after:
            time.sleep(0.001)
        os.kill(next(iter(pool.processes.values()))[1], signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_two_workers_of_which_one_is_killed_give_the_table_of_one_process(
    two, planted_llama, tmp_path, capsys, monkeypatch
):
    model, _ = planted_llama
    trials = rh.niah(two, [200, 210], 4, needles=4)
    assert trials == rh.niah(model, [200, 210], 4, needles=4)
    whole = rh.detect(model, trials, out=tmp_path / "one")
    killed, share_out, there = kill_one(two, tmp_path / "many", 2), two._all, []
    monkeypatch.setattr(two, "_all", lambda *a: (share_out(*a), there.append(lines_of(tmp_path / "many")))[0])
    scores = rh.detect(two, trials, out=tmp_path / "many")
    killed.join(1)
    assert not killed.is_alive()
    time.sleep(1)
    said = capsys.readouterr()
    assert "another one takes over" in said.err
    assert said.out == "", "stdout is for results"
    same(scores, whole)
    assert there[0] == there[1], "what gathers the shares measures nothing"
    assert keys_of(tmp_path / "many") == keys_of(tmp_path / "one"), "each unit once"
    before = lines_of(tmp_path / "many")
    same(rh.detect(model, trials, out=tmp_path / "many"), whole)
    assert lines_of(tmp_path / "many") == before, "this process finds all that the workers measured"
    curve = rh.ablate(two, trials[:6], scores, k=3, draws=2, out=tmp_path / "many")
    same(curve, rh.ablate(model, trials[:6], scores, k=3, draws=2))


def test_the_command_line_loads_no_model_itself(two, monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(workers, "ray_workers", lambda *a, **o: asked.append((a, o)) or contextlib.nullcontext(two))
    monkeypatch.setattr("rhlens.model.load.load", None)
    small = ["--lengths", "120", "--depths", "1", "--needles", "3", "--out", tmp_path]
    there = ["--engine", "ray", "--workers", "2", "--gpus", "0", "--address", "auto"]
    assert run(monkeypatch, "detect", "planted-llama", *small, *there) == 0
    [(model, *where), options] = asked[0]
    assert (model, *where, options["device"]) == ("planted-llama", 2, "auto", 0, "auto")
    assert set(rh.read_scores(tmp_path / "scores.safetensors").retrieval_heads()) == {(2, 3), (2, 6), (3, 1)}
    assert run(monkeypatch, "map", "planted-llama", *small, *there, "--phase", "decode") == 0
    assert (tmp_path / "causal_map.csv").exists()


def test_what_a_worker_raises_is_raised_here_and_its_run_may_go_on(two, tmp_path):
    with pytest.raises(ValueError, match=r"^there are no trials to run$"):
        rh.detect(two, [], out=tmp_path)
    with pytest.raises(ValueError, match="leave out stop_when_stable"):
        rh.detect(two, rh.niah(two, [120], 1, needles=6), out=tmp_path, stop_when_stable=0.9)
    with pytest.raises(ValueError, match="give one as out"):
        rh.detect(two, rh.niah(two, [120], 1, needles=2))
    assert rh.detect(two, rh.niah(two, [120], 1, needles=2), out=tmp_path).n_trials == 2


def test_a_share_that_kills_its_worker_again_and_again_ends_the_run(two, tmp_path):
    with bare() as pool, pytest.raises(RuntimeError, match=r"lost its worker 3 times .*what is finished is kept"):
        pool.run(lambda model, trials, progress, out=None: os.kill(os.getpid(), signal.SIGKILL), [], None, out=tmp_path)


def test_a_model_that_cannot_be_loaded_ends_it_too(two):
    with pytest.raises(RuntimeError, match="3 workers died as they loaded the model"):
        bare(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def broken():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match=r"^no such model$"):
        bare(broken)


def test_workers_that_were_sent_home_say_so(two, tmp_path):
    with bare() as pool:
        pass
    pool.close()
    with pytest.raises(ValueError, match="take others with"):
        pool.run(lambda model, out=None: None, out=tmp_path)


def test_a_folder_that_a_worker_does_not_see_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"does not see .*on a file system that all machines share"):
        Worker().measure((lambda model, out: None, {}), tmp_path, str(tmp_path / "elsewhere" / ".probe-1"))


def test_no_cluster_is_told_soon(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"no Ray cluster answers at '127.0.0.1:1' .*ray start --head"):
        rh.ray_workers("planted-llama", address="127.0.0.1:1")
    assert time.monotonic() - began < 10
    with pytest.raises(ValueError, match="workers must be 1 or more, not 0"):
        rh.ray_workers("planted-llama", 0)
    with pytest.raises(ValueError, match="give dtype to the function"):
        rh.ray_workers(lambda: None, dtype="float32")


def test_ray_sends_no_usage_and_ends_with_the_last_workers(two):
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    with bare():
        assert cluster._users == 2
    assert ray.is_initialized()
