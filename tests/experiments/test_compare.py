"""Tables of finished runs: the numbers of a column, the runs of a row, and refusals."""

import json
from pathlib import Path

import pytest

from cvjax.workflow.compare import Cell


def write(folder: Path, metrics: dict, *, seed: int = 0, k: int = 10, config: dict | None = None) -> Path:
    """A finished run of a kNN experiment, as its two files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(
        {"experiment": "knn", "data": "digits", "seed": seed, "workers": seed, **(config or {})}))
    features = {name.split("/")[1]: {"pool": "token", "knn_blocks": 1} for name in metrics if "/" in name}
    (folder / "summary.json").write_text(json.dumps({"metrics": metrics, "protocol": {
        "seed": seed, "data": {"fingerprint": "ab"}, "features": features, "knn": {"k": k, "temperature": 0.07}}}))
    return folder


@pytest.fixture
def compare(command, tmp_path, monkeypatch):
    """`compare("a", "b", ...)`: the command in the folder of the runs."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command("compare", *arguments)


def table(done) -> list[list[str]]:
    """The cells of the printed table."""
    assert done.status == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_runs_are_rows_metrics_are_columns_and_what_a_run_lacks_stays_empty(compare, tmp_path):
    write(tmp_path / "a", {"knn/dino": 0.5, "knn/dino/k=20": 0.4, "knn/pixels": 0.3})
    write(tmp_path / "b", {"knn/mae": 0.25}, config={"checkpoint": "gone"})
    done = compare("a", "b", "--metrics", "knn", "knn/k=*", "knn/pixels")
    assert table(done) == [["run", "knn", "knn/k=20", "knn/pixels"], ["---", "---:", "---:", "---:"],
                           ["a", "50.00 %", "40.00 %", "30.00 %"], ["b", "25.00 %", "", ""]]
    assert "- `knn`: knn/k 10, knn/temperature 0.07, features/pool token, features/blocks 1, data/fingerprint ab" \
        in done.out
    assert (tmp_path / "comparison.md").read_text() in done.out
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_by_default_the_headlines_and_full_names_choose_too(compare, tmp_path):
    write(tmp_path / "a", {"knn/dino": 0.5, "knn/dino/k=20": 0.4, "knn/random": 0.1, "few_shot/dino/shots=5": 0.3,
                           "few_shot/dino/shots=5/deviation": 0.1, "few_shot/dino/shots=10": 0.6, "test/loss": 2.0,
                           "test/top1": 0.7})
    assert table(compare("a"))[0] == ["run", "test/top1", "knn", "few_shot/shots=5", "few_shot/shots=10"]
    assert table(compare("a", "--metrics", "knn/dino", "test/loss"))[0] == ["run", "test/loss", "knn"]


def test_runs_that_differ_in_the_seed_are_one_row(compare, tmp_path):
    for seed, value in enumerate((0.2, 0.4, 0.9)):
        write(tmp_path / f"runs/digits-seed={seed}", {"knn/dino": value} | ({"knn/pixels": 0.5} if seed else {}),
              seed=seed)
    write(tmp_path / "runs/other", {"knn/dino": 0.3}, config={"data": "digits", "batch_size": 3})
    (tmp_path / "x").mkdir()
    done = compare(*sorted(Path("runs").iterdir()), "--metrics", "knn", "knn/pixels", "--output", "x/y.1")
    # The mean of 2, 4, 9 is 5; their squared distances 9, 1, 16 make 13 by the divisor 2.
    assert table(done)[2:] == [
        ["runs/digits-seed=… (3 seeds)", f"50.00 % ± {10 * 13**0.5:.2f} % (n=3)", "50.00 % ± 0.00 % (n=2)"],
        ["runs/other", "30.00 %", ""]]
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"y.1.md", "y.1.png"}


def test_seeds_of_the_runs_before_count_and_equal_seeds_are_no_group(compare, tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"pre{seed}", {"knn/dino": 0.1 * seed}, seed=seed)
        write(tmp_path / f"probe{seed}", {"knn/dino": 0.1 * seed}, config={"checkpoint": f"pre{seed}"})
    write(tmp_path / "changed", {"knn/dino": 0.3}, config={"batch_size": 7})
    write(tmp_path / "after", {"knn/dino": 0.3}, config={"checkpoint": "changed"})
    names = [row[0] for row in table(compare("probe0", "probe1", "after"))[2:]]
    assert names == ["probe… (2 seeds)", "after"]
    write(tmp_path / "again", {"knn/dino": 0.3}, seed=1)
    assert [row[0] for row in table(compare("pre0", "pre1", "again"))[2:]] == ["pre0", "pre1", "again"]


def test_groups_whose_paths_start_alike_or_share_nothing_are_named_by_all_their_paths(compare, tmp_path):
    for number, value in enumerate((0.1, 0.2, 0.3, 0.4)):
        write(tmp_path / f"x{number}", {"knn/dino": value}, seed=number, config={"batch_size": number // 2})
    for seed, name in enumerate(("left", "right")):
        write(tmp_path / name, {"knn/dino": 0.5}, seed=seed)
    assert {row[0]: row[1][:7] for row in table(compare("x0", "x1", "x2", "x3", "left", "right"))[2:]} == {
        "x0, x1 (2 seeds)": "15.00 %", "x2, x3 (2 seeds)": "35.00 %", "left, right (2 seeds)": "50.00 %"}


def test_a_column_of_two_protocols_is_refused_with_keys_and_runs_or_marked(compare, tmp_path):
    write(tmp_path / "a", {"knn/dino": 0.5, "knn/pixels": 0.5})
    write(tmp_path / "b", {"knn/mae": 0.6})
    write(tmp_path / "c", {"knn/mae": 0.7}, k=20)
    done = compare("a", "b", "c")
    assert ("error: the runs measured knn by different protocols: knn/k: 10 (a, b), 20 (c); --mix-protocols puts"
            in done.complaint)
    assert not (tmp_path / "comparison.md").exists()
    done = compare("a", "b", "c", "--mix-protocols", "--metrics", "knn", "knn/pixels")
    assert table(done)[0] == ["run", "knn †", "knn/pixels"]
    assert "- † `knn` mixes protocols: knn/k: 10 (a, b), 20 (c)" in done.out
    own = next(line for line in done.out.splitlines() if line.startswith("- `knn`"))
    assert "knn/temperature 0.07" in own and "knn/k " not in own


def test_a_refusal_of_many_differences_names_all_and_spells_out_three(compare, tmp_path):
    for name, extra in (("a", {}), ("b", {"p": 1, "q": 2, "r": 3, "s": 4, "t": 5})):
        folder = write(tmp_path / name, {"knn/dino": 0.5})
        summary = json.loads((folder / "summary.json").read_text())
        summary["protocol"]["knn"] |= extra
        (folder / "summary.json").write_text(json.dumps(summary))
    assert "knn/p: not recorded (a), 1 (b); knn/q: not recorded (a), 2 (b); knn/r: not recorded (a), 3 (b); and " \
        "knn/s, knn/t; --mix-protocols" in compare("a", "b").complaint


def test_what_is_unfinished_or_no_run_is_left_out_and_named(compare, tmp_path):
    """As of `runs/*/*`."""
    write(tmp_path / "a", {"knn/dino": 0.5})
    write(tmp_path / "unfinished", {}).joinpath("summary.json").unlink()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "notes.txt").write_text("better than b")
    done = compare("a", "unfinished", "foreign", "notes.txt")
    assert done.out.splitlines()[:3] == ["left out: unfinished is unfinished (no summary.json)",
                                         "left out: foreign is no run (no config.json)",
                                         "left out: notes.txt is no run (no config.json)"]
    assert [row[0] for row in table(done)[2:]] == ["a"]
    assert "none of the 2 given is a finished run" in compare("unfinished", "foreign").complaint


def test_folders_that_are_damaged_or_not_there_are_one_line(compare, tmp_path):
    write(tmp_path / "a", {"knn/dino": 0.5})
    damaged = {"broken": ("{", "is cut off or not JSON (line 1, column 2: "), "list": ("[]", "is not a JSON object"),
               "bare": ("{}", "has no metrics"), "words": ('{"metrics": {"a": "b"}}', "has no metrics with numbers"),
               "emptied": ("", "is empty"), "unmeasured": ('{"metrics": {"a": 1}, "protocol": 3}', "does not say how")}
    for name, (content, _) in damaged.items():
        write(tmp_path / name, {}).joinpath("summary.json").write_text(content)
    write(tmp_path / "zeros", {"knn/dino": 0.5}).joinpath("config.json").write_bytes(b"\0" * 40)
    for name, message in {"missing": "missing: no such folder", "zeros": "zeros/config.json is empty"}.items():
        assert message in compare("a", name).complaint
    for name, (_, message) in damaged.items():
        complaint = compare("a", name).complaint
        assert f"{name}/summary.json " in complaint and message in complaint


def test_other_mistakes_are_one_line(compare, tmp_path):
    write(tmp_path / "a", {"knn/dino": 0.5})
    assert "given twice: a/../a" in compare("a", "./a/../a").complaint
    assert "no metric matches test/* miou; the runs have knn" in compare("a", "--metrics", "test/*", "miou").complaint
    write(tmp_path / "two", {"knn/dino": 0.5, "knn/mae": 0.6})
    assert "two has knn/dino and knn/mae for the column knn: --metrics must name one" in compare("two").complaint
    assert table(compare("two", "--metrics", "knn/mae"))[2] == ["two", "60.00 %"]
    assert "--output missing/x: it must be" in compare("a", "--output", "missing/x").complaint
    assert "--output a: it must be" in compare("a", "--output", "a").complaint
    assert compare().status == 2


def test_a_name_with_a_bar_stays_one_cell(compare, tmp_path):
    write(tmp_path / "a|b", {"knn/dino": 0.5})
    assert "| a\\|b | 50.00 % |" in compare("a|b").out


def test_cells_in_words():
    assert Cell(0.12345, None, 1).in_words("knn/k=20") == "12.35 %"
    assert Cell(0.5, 0.01, 4).in_words("test/top1") == "50.00 % ± 1.00 % (n=4)"
    assert Cell(1.23456, 0.01, 4).in_words("linear_probe/loss") == "1.235 ± 0.01 (n=4)"
