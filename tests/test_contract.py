"""The service keeps to its own description, whatever it is asked.

The long form, which also prints its counts: EIGEN_DIGITS_HEAVY=1 pytest tests/test_contract.py tests/test_fuzz.py -s
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.python import asgi
from test_fuzz import ALLOWED, HEAVY, encoded

from eigen_digits import serving

# Beside the statuses that mean this anyway: a text that is no picture, and a body with more than the server takes.
CHECKS = {
    "positive_data_acceptance": {"expected-statuses": ["200", "400"]},
    "negative_data_rejection": {"expected-statuses": ["400", "405", "413", "415", "422"]},
}
SEVEN = [[[80, 70], [195, 66], [150, 140], [120, 225]], [[105, 145], [180, 140]]]

app = serving.create_app(serving.TestSettings(_env_file=None))
document = app.openapi()
operations = {
    f"{method.upper()} {path}": operation
    for path, methods in document["paths"].items()
    for method, operation in methods.items()
}
schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=schemathesis.Config.from_dict({"checks": CHECKS}))


# What no description tells, and every second question gets: pictures

pictures = st.builds(encoded, st.sampled_from(ALLOWED), side=st.integers(8, 300))
shown = st.lists(st.sampled_from(["seen", "why"]), max_size=2)
questions = st.one_of(
    st.fixed_dictionaries(
        {"image_base64": pictures.map(lambda data: b64encode(data).decode())}, optional={"show": shown}
    ),
    st.fixed_dictionaries(
        {"strokes": st.just(SEVEN)}, optional={"show": shown, "size": st.integers(200, 1000), "width": st.floats(1, 50)}
    ),
)
for form in ALLOWED:
    raw = st.builds(encoded, st.just(form), side=st.integers(8, 300))
    schemathesis.openapi.media_type(f"image/{form.lower()}", raw | st.binary())


@schema.hook
def flatmap_case(context, case):
    """In the place of every second body in JSON that is right, one with something to read."""
    if not isinstance(case.body, dict) or case.meta.generation.mode.is_negative:
        return st.just(case)
    real = {
        "/api/v1/predict": pictures.map(lambda data: {"image_base64": b64encode(data).decode()}),
        "/api/v2/predict": questions,
        "/api/v2/predict/batch": st.fixed_dictionaries(
            {"questions": st.lists(questions | st.none(), min_size=1, max_size=32)}
        ),
    }

    def asking(body):
        case.body = body
        return case

    return st.just(case) | real[context.operation.path].map(asking)


@pytest.fixture(scope="module")
def session() -> Iterator[asgi.ASGIClient]:
    """A client that the application lives as long as."""
    with TestClient(app), asgi.get_client(app) as client:
        yield client


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter]:
    """Counts answers by operation and status; at least a tenth must be 200."""
    counts = Counter()
    yield counts
    by_status = Counter()
    for (_, status), count in counts.items():
        by_status[status] += count
    for (operation, status), count in sorted(counts.items()):
        print(f"{operation:<30} {status} {count:>6}")
    print(f"{sum(by_status.values()):,} answers: {dict(sorted(by_status.items()))}")
    assert by_status[200] >= by_status.total() / 10


def asking(label: str) -> Callable:
    """A test that sends whatever the description of one operation allows, and forbids."""

    @schema.include(name=label).parametrize()
    @settings(
        max_examples=1000 if HEAVY else 40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def test(case, session, counts):
        answer = case.call(session=session)
        counts[case.operation.label, answer.status_code] += 1
        case.validate_response(answer, transport_kwargs={"session": session})

    return test


# Each under a name of its own: pytest 9.2 would give all of one schema the same, of which pytest-xdist runs one.
for label in operations:
    globals()[f"test_every_answer_is_as_described[{label}]"] = asking(label)


# What is described


def example_bodies(content: dict) -> list:
    """The bodies that the description of one kind of content gives, or else those that its fields give together."""
    if given := content.get("examples"):
        return [example["value"] for example in given.values()]
    fields = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]["properties"]
    return [{name: field["examples"][0] for name, field in fields.items()}]


BODIES = [
    (label, body)
    for label, operation in operations.items()
    for kind, content in operation.get("requestBody", {"content": {}})["content"].items()
    if kind == "application/json"
    for body in example_bodies(content)
]


@pytest.mark.parametrize(("label", "body"), BODIES)
def test_every_example_is_answered_as_it_stands(label, body, session):
    with TestClient(app) as client:
        answer = client.post(label.removeprefix("POST "), json=body)
    assert answer.status_code == 200, answer.text
    for one in answer.json().get("answers", [answer.json()]):
        assert one.get("digit", one.get("predicted_digit")) == 7


def test_every_question_in_json_has_an_example():
    assert {label for label, _ in BODIES} == {label for label in operations if label.startswith("POST")}
    fields = document["components"]["schemas"]
    for name in "PredictRequest", "PictureQuestion", "StrokesQuestion", "Batch":
        assert all("examples" in fields[name]["properties"][field] for field in fields[name]["required"]), name


def test_every_field_is_described():
    fields = {
        f"{name}.{field}": said
        for name, schema in document["components"]["schemas"].items()
        for field, said in schema["properties"].items()
    }
    parameters = {p["name"]: p for operation in operations.values() for p in operation.get("parameters", [])}
    assert [name for name, said in (fields | parameters).items() if not said.get("description")] == []


@pytest.mark.parametrize("label", operations)
def test_every_route_has_a_summary_and_every_answer_a_schema(label):
    operation = operations[label]
    assert operation["summary"] and operation["description"]
    for status, answer in operation["responses"].items():
        assert answer["description"], status
        assert answer["content"] and all(content["schema"] for content in answer["content"].values()), status


def test_the_limits_are_described_everywhere():
    for label, operation in operations.items():
        assert {"200", "408", "413", "503"} | ({"429"} if "/api/" in label else set()) <= set(operation["responses"])
