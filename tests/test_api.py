"""The API's contract: v1 to the byte, its errors, the settings, and the page it serves."""

import base64
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import encoded
from fastapi.testclient import TestClient
from PIL import Image
from uvicorn.importer import import_from_string

from eigen_digits import serving
from eigen_digits.inference import ArtefactError, Prediction, Recognizer, shipped_artefact
from eigen_digits.preprocessing import rasterize

SEVEN = [[(80, 70), (195, 66), (150, 140), (120, 225)], [(105, 145), (180, 140)]]
ONE = [[(110, 100), (150, 60), (150, 225)]]


class Oracle:
    """A recognizer that says one thing, where the point is how an answer travels and not what it is."""

    def __init__(self, prediction: Prediction):
        self.prediction = prediction

    def predict(self, image) -> Prediction:
        assert isinstance(image, Image.Image)  # a text could be the path of one of the server's files
        return self.prediction


def saying(digit, confidence, is_digit=True, reason=None) -> Oracle:
    return Oracle(Prediction(digit, confidence, np.zeros(10, np.float32), is_digit, reason))


def client_of(recognizer=None, **settings) -> TestClient:
    return TestClient(serving.create_app(serving.TestSettings(_env_file=None, **settings), recognizer))


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ask(client: TestClient, text: str):
    return client.post("/api/v1/predict", json={"image_base64": text})


@pytest.fixture(scope="module")
def client():
    with client_of() as client:
        yield client


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No setting from this machine: none of our names in the environment, and no .env file."""
    for name in os.environ:
        if name.upper().startswith(("ENV_STATE", "DEV_", "PROD_", "TEST_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What is answered


def test_status_is_byte_for_byte(client):
    answer = client.get("/api/v1/")
    assert answer.status_code == 200
    assert answer.content == b'{"status":"ok","message":"Digit Recognizer API is running."}'


@pytest.mark.parametrize(
    ("confidence", "written"), [(0.98634, b"0.9863"), (np.float32(0.98634), b"0.9863"), (0.999999, b"1.0")]
)
def test_answer_is_byte_for_byte(confidence, written):
    with client_of(saying(7, confidence)) as client:
        answer = ask(client, data_url(encoded(rasterize(SEVEN))))
    assert answer.content == b'{"predicted_digit":7,"confidence":' + written + b"}"


def test_an_unsure_answer_is_still_the_best_guess():
    with client_of(saying(3, 0.31, is_digit=False, reason="unsure")) as client:
        assert ask(client, data_url(encoded(rasterize(SEVEN)))).json() == {"predicted_digit": 3, "confidence": 0.31}


@pytest.mark.parametrize(("strokes", "digit"), [(SEVEN, 7), (ONE, 1)])
def test_drawn_digits_are_recognised(client, strokes, digit):
    answer = ask(client, data_url(encoded(rasterize(strokes))))
    assert answer.status_code == 200
    assert answer.json()["predicted_digit"] == digit


def test_picture_formats_and_bare_base64_give_one_answer(client):
    image = rasterize(SEVEN)
    texts = [data_url(encoded(image)), base64.b64encode(encoded(image)).decode(), data_url(encoded(image, "BMP"))]
    texts += [data_url(encoded(image.convert("RGBA"))), data_url(encoded(image, "WEBP"), "image/webp")]
    assert [ask(client, text).json()["predicted_digit"] for text in texts] == [7] * len(texts)


def test_api_and_import_give_the_same_answer(client):
    data = encoded(rasterize(SEVEN))
    prediction = Recognizer.load().predict(data)
    assert ask(client, data_url(data)).json() == {
        "predicted_digit": prediction.digit,
        "confidence": round(float(prediction.confidence), 4),
    }


def test_many_threads_get_what_one_gets(client):
    urls = [data_url(encoded(rasterize([[(x + 2 * k, y) for x, y in s] for s in SEVEN]))) for k in range(24)]
    one_by_one = [ask(client, url).json() for url in urls]
    with ThreadPoolExecutor(24) as pool:
        at_once = list(pool.map(lambda url: ask(client, url).json(), urls * 4))
    assert at_once == one_by_one * 4


# What is refused

PNG = encoded(rasterize(SEVEN))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64", "empty"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("aGVsbG8", "not a picture"),
        ("seven", "not valid base64"),
        ("/etc/hostname", "not valid base64"),
        ("sept\N{LATIN SMALL LETTER E WITH ACUTE}", "not valid base64"),
        ("\ud800", "not valid base64"),
        (data_url(b"Dear Sir or Madam"), "not a picture"),
        (data_url(PNG[: len(PNG) // 2]), "cut short"),
        (data_url(encoded(Image.new("L", (3, 3)))), "3×3"),
        (data_url(encoded(Image.new("L", (280, 280), "white"))), "empty"),
        (data_url(encoded(Image.new("RGBA", (280, 280)))), "empty"),
    ],
)
def test_bad_pictures_get_a_sentence(client, text, said):
    # In ASCII, since half a surrogate pair can be written in JSON but not sent as UTF-8.
    body = json.dumps({"image_base64": text})
    answer = client.post("/api/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert list(answer.json()) == ["detail"]
    detail = answer.json()["detail"]
    assert said in detail
    assert re.fullmatch(r"[A-Z].*\bsend\b.*\.", detail), "a sentence that says what to send"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b"{",
        b'{"image_base64": null}',
        b'{"image_base64": 7}',
        b'{"image_base64": NaN}',
        b'{"image_base64": 1e999}',
        b'{"image_base64": ["data:,"]}',
        b'{"image_base64": ["\\ud800"]}',
        b'{"image": "data:,"}',
    ],
)
def test_bodies_of_the_wrong_shape_get_422(client, body):
    answer = client.post("/api/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert {"type", "loc", "msg"} == set(answer.json()["detail"][0])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"strokes":' * 5000, "[" * 500 + "]" * 500])
def test_json_that_is_nested_deeply_is_refused(client, text):
    json_ = {"Content-Type": "application/json"}
    for path in "v1/predict", "v2/predict", "v2/predict/batch":
        assert client.post(f"/api/{path}", content=text.encode(), headers=json_).status_code in (400, 422)


def test_the_wrong_method_or_address_is_said_so(client):
    assert client.get("/api/v1/predict").status_code == 405
    assert client.post("/api/v1/predictions").status_code == 404


def test_openapi_names_every_answer(client):
    document = client.get("/openapi.json").json()
    always = {"200", "408", "413", "422", "429", "503"}
    answers = {"/api/v1/predict": {"400"}, "/api/v2/predict": {"400", "415"}, "/api/v2/predict/batch": {"415"}}
    assert set(document["paths"]) - answers.keys() == {"/api/v1/", "/api/v2/model", "/healthz", "/readyz", "/metrics"}
    for path, more in answers.items():
        assert set(document["paths"][path]["post"]["responses"]) == always | more


# One model for all


def test_the_model_is_loaded_once_at_the_start(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(Recognizer, "load", lambda path=None: loaded.append(path) or saying(7, 0.5))
    client = client_of(model=tmp_path)
    assert loaded == []
    with client:
        for _ in range(3):
            assert ask(client, data_url(encoded(rasterize(SEVEN)))).json()["predicted_digit"] == 7
    assert loaded == [tmp_path]


def test_a_missing_model_stops_the_start(tmp_path):
    with pytest.raises(ArtefactError, match="nowhere"), client_of(model=tmp_path / "nowhere"):
        pass


def test_serve_loads_the_model_before_it_listens(bare, monkeypatch):
    started = []
    monkeypatch.setattr(serving.uvicorn, "run", lambda app, **how: started.append(how["port"]))
    serving.serve(port=0)
    assert started == [0]
    monkeypatch.setenv("DEV_MODEL", "nowhere")
    with pytest.raises(ArtefactError, match="nowhere"):
        serving.serve(port=0)
    assert started == [0]


# Other sites


def preflight(client, origin="https://example.org", method="POST"):
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    headers["Access-Control-Request-Headers"] = "content-type"
    return client.options("/api/v1/predict", headers=headers)


def test_dev_is_open_to_any_site(bare):
    with TestClient(serving.create_app(serving.DevSettings(), saying(7, 0.5))) as client:
        answer = preflight(client)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert preflight(client, method="DELETE").status_code == 400
        answer = client.get("/api/v1/", headers={"Origin": "https://example.org"})
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("kind", [serving.ProdSettings, serving.TestSettings])
def test_prod_and_test_are_closed_until_a_site_is_named(bare, kind):
    with TestClient(serving.create_app(kind(), saying(7, 0.5))) as client:
        answer = preflight(client)
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (400, None)
        answer = client.get("/api/v1/", headers={"Origin": "https://example.org"})
        assert "access-control-allow-origin" not in answer.headers


def test_prod_is_open_to_the_sites_it_names_and_no_other(bare, monkeypatch):
    monkeypatch.setenv("PROD_CORS_ORIGINS", "https://example.org, https://www.example.org")
    with TestClient(serving.create_app(serving.ProdSettings(), saying(7, 0.5))) as client:
        for origin in "https://example.org", "https://www.example.org":
            assert preflight(client, origin).headers["access-control-allow-origin"] == origin
        for origin in "https://example.com", "http://example.org", "https://example.org.evil.test":
            assert "access-control-allow-origin" not in preflight(client, origin).headers


# Settings


def test_dev_is_the_default_and_listens_to_this_machine_alone(bare):
    settings = serving.get_settings()
    assert isinstance(settings, serving.DevSettings)
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8000, None)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("dev", serving.DevSettings), ("prod", serving.ProdSettings), ("test", serving.TestSettings)],
)
def test_each_mode_reads_its_own_prefix_alone(bare, monkeypatch, mode, kind):
    monkeypatch.setenv("ENV_STATE", mode)
    for port, prefix in enumerate(("DEV", "PROD", "TEST"), start=9001):
        monkeypatch.setenv(f"{prefix}_PORT", str(port))
    settings = serving.get_settings()
    assert type(settings) is kind
    assert settings.port == {"dev": 9001, "prod": 9002, "test": 9003}[mode]


def test_a_dotenv_file_is_read_and_the_environment_wins(bare, monkeypatch):
    (bare / ".env").write_text("ENV_STATE=prod\nPROD_PORT=9000\nPROD_HOST=0.0.0.0\nOTHER=1\n", encoding="utf-8")
    monkeypatch.setenv("PROD_PORT", "9009")
    settings = serving.get_settings()
    assert (type(settings), settings.host, settings.port) == (serving.ProdSettings, "0.0.0.0", 9009)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ENV_STATE", "staging", "'dev', 'prod' or 'test'"),
        ("DEV_PORT", "http", "integer"),
        ("DEV_PORT", "70000", "65535"),
        ("DEV_LOG_LEVEL", "loud", "'info'"),
        ("DEV_CORS_ORIGINS", "https://example.org/", "https://example.org"),
        ("DEV_CORS_ORIGINS", "example.org", "https://example.org"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(bare, monkeypatch, name, value, allowed):
    monkeypatch.setenv(name, value)
    with pytest.raises(serving.SettingsError) as refused:
        serving.get_settings()
    assert str(refused.value).startswith(f"{name} is {value!r}.")
    assert allowed in str(refused.value)


def test_the_server_finds_app_by_name_and_reads_the_settings_only_then(bare, monkeypatch):
    serving._app.cache_clear()
    monkeypatch.setenv("ENV_STATE", "staging")
    with pytest.raises(serving.SettingsError, match="ENV_STATE is 'staging'"):
        import_from_string("eigen_digits.serving:app")
    monkeypatch.setenv("ENV_STATE", "test")
    app = import_from_string("eigen_digits.serving:app")
    assert app is serving.app
    assert app.title == "Eigen Digits"
    serving._app.cache_clear()


# The page


def test_the_page_is_one_small_file_that_fetches_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert len(answer.content) < 40_000
    assert not re.search(r"https?://|@import|<script[^>]+src|<link[^>]+href=\"(?!data:)|url\((?!data:)", answer.text)


# Around it


def test_every_answer_has_an_id_and_safe_headers(client):
    asked = [client.get("/"), client.get("/api/v1/"), client.get("/nowhere"), ask(client, "@"), client.get("/docs")]
    asked.append(client.post("/api/v1/predict", content=b"7" * 10_000_001))
    assert [answer.status_code for answer in asked] == [200, 200, 404, 400, 200, 413]
    for answer in asked:
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_page_may_run_its_own_scripts_and_no_other(client):
    scripts = dict(part.split(" ", 1) for part in client.get("/").headers["content-security-policy"].split("; "))
    assert re.fullmatch("'sha256-[^']+'", scripts["script-src"])
    assert re.fullmatch("'sha256-[^']+'", scripts["style-src"])
    assert scripts["connect-src"] == "'self'"


def test_a_rate_limit_counts_the_api_and_not_the_page():
    with client_of(saying(7, 0.5), rate_limit="2/minute") as client:
        assert [client.get("/api/v1/").status_code for _ in range(3)] == [200, 200, 429]
        assert client.get("/api/v1/").headers["retry-after"] == "60"
        assert client.get("/").status_code == client.get("/healthz").status_code == 200


def test_a_model_that_sees_no_digit_at_the_start_is_alive_and_not_ready():
    with client_of(Oracle(Prediction(None, None, None, False, "empty"))) as client:
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_prod_keeps_its_counts_to_itself_until_it_is_told(bare, monkeypatch):
    for told, status in ({}, 404), ({"PROD_METRICS": "true"}, 200):
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        with TestClient(serving.create_app(serving.ProdSettings(), saying(7, 0.5))) as client:
            assert client.get("/metrics").status_code == status


def test_what_the_model_says_of_itself_is_its_json(client):
    meta = json.loads((shipped_artefact() / "model.json").read_text())
    card = client.get("/api/v2/model").json()
    assert card["digest"] == meta["files"]["model.tflite"]["sha256"]
    assert {name: card[name] for name in ("trained_on", "metrics", "parameters")} == {
        name: meta[name] for name in ("trained_on", "metrics", "parameters")
    }
    answer = client.post("/api/v2/predict", json={"strokes": SEVEN}).json()
    assert answer["model"] == {"name": "eigen-digits", "digest": card["digest"]}
