"""Reports and their pages, made once: drawing charts takes a second."""

import pytest

from steelyard.report import render
from tests.report import cases


@pytest.fixture(scope="session")
def digits_report():
    return cases.digits_report()


@pytest.fixture(scope="session")
def text_report():
    return cases.text_report()


@pytest.fixture(scope="session")
def hostile_report():
    return cases.text_report(hostile=True)


@pytest.fixture(scope="session")
def table_report():
    return cases.table_report()


@pytest.fixture(scope="session")
def digits_page(digits_report):
    return render(digits_report)


@pytest.fixture(scope="session")
def hostile_page(hostile_report):
    return render(hostile_report)


@pytest.fixture(scope="session")
def table_page(table_report):
    return render(table_report)
