"""The example of boosted trees on a table with categories: from the file to the verdict, at reduced size."""

import csv
import importlib.metadata

import pyarrow.parquet as parquet
import pytest
from examples import adult_trees

from steelyard.cli.app import app

pytestmark = pytest.mark.trees


def _without_package(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(adult_trees.importlib.metadata, "files", missing)


@pytest.mark.slow
def test_the_commands_of_the_example_find_what_was_turned_over(runner, tmp_path):
    label, features = adult_trees.write(tmp_path, train=250, query=8, rounds=10)
    for command in adult_trees.commands(tmp_path, label, features):
        result = runner.invoke(app, [*command, "--quiet"])
        assert result.exit_code == 0, result.output
        assert "Mislabel AUC" in result.output or command[0] != "verify"
    rows = parquet.read_table(tmp_path / "train.parquet").to_pylist()
    wrong = {row["id"] for row in rows if row["wrong"]}
    with (tmp_path / "clean" / "issues.csv").open() as file:
        named = [row["train_id"] for row in csv.DictReader(file)]
    share = len(wrong & set(named)) / len(named)
    assert share > 2 * len(wrong) / len(rows)  # chance finds the share of all rows that is wrong


def test_without_the_package_another_table_with_categories_stands_in(monkeypatch, tmp_path):
    _without_package(monkeypatch)
    label, features = adult_trees.write(tmp_path, train=100, query=5, rounds=3)
    assert (label, len(features)) == ("benign", 6)
    schema = parquet.read_schema(tmp_path / "query.parquet")
    assert [name for name in features if "string" in str(schema.field(name).type)] == features[4:6]
    assert (tmp_path / "model.txt").is_file()
