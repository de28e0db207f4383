"""The live sources against a server of our own: what is sent, kept, limited and refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rctpl_utils.errors import InputError
from rctpl_utils.text import knowledge_live
from rctpl_utils.text.knowledge import DESCRIBED
from rctpl_utils.text.knowledge_live import ChatModel, LiveSourceError, Wikipedia, live_source
from rctpl_utils.workspace import PACKAGE_DATA

REPORT = "Large left pleural effusion in this patient, seen on the prior study."
EXTRACT = "Pneumonia is an infection of the lung. It has many causes."


class Handler(BaseHTTPRequestHandler):
    """Records what arrives; answers with the next (status, body), the last one again and again."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        arrived = {"method": self.command, "path": self.path, "headers": dict(self.headers)}
        self.server.requests.append(arrived | {"body": body})
        answers = self.server.answers
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:  # never answer
            self.server.silence.wait(5)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_args) -> None:
        """Stay quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests, self.answers, self.silence = [], [], threading.Event()

    def answer(self, value, status: int = 200) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers.append((status, body))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in {"CONNECT": 1, "READ": 1, "TOTAL": 2, "PAUSE": 0}.items():
        monkeypatch.setattr(knowledge_live, name, value)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.silence.set()
    running.shutdown()
    running.server_close()
    thread.join()


def chat(server: Server, cache: Path, **more) -> ChatModel:
    return ChatModel(cache, server.url, model="tiny", **more)


def test_wikipedia_is_asked_for_the_article_and_its_answer_kept(server, tmp_path):
    server.answer({"extract": EXTRACT})
    source = Wikipedia(tmp_path, server.url)
    record = source.record("Pneumonia")
    assert record["text"] == "an infection of the lung"
    assert record["source"] == f"{server.url}/api/rest_v1/page/summary/Pneumonia"
    assert source.record("Pneumonia") == record
    assert Wikipedia(tmp_path, server.url).record("Pneumonia") == record
    (request,) = server.requests
    assert server.url + request["path"] == record["source"]
    assert "rctpl-companion" in request["headers"]["User-Agent"]
    source.record("Pleural Effusion")
    assert server.requests[1]["path"].endswith("/Pleural_effusion")


def test_a_chat_model_is_asked_with_the_documented_prompt(server, tmp_path):
    content = "a lump in the lung,\nwhite and round.\n"
    server.answer({"choices": [{"message": {"content": content}}]})
    record = chat(server, tmp_path, api_key="secret").record("Mass")
    assert record["text"] == "a lump in the lung, white and round"
    assert record["model"] == "tiny"
    kept = json.loads((PACKAGE_DATA / "knowledge.json").read_text(encoding="utf-8"))
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer secret"
    assert json.loads(request["body"]) == {
        "model": "tiny",
        "messages": [{"role": "user", "content": kept["llm"]["Mass"]["prompt"]}],
        "temperature": 0,
        "max_tokens": 200,
    }
    assert "secret" not in next(tmp_path.glob("*.json")).read_text(encoding="utf-8")
    assert "secret" not in repr(chat(server, tmp_path, api_key="secret"))


@pytest.mark.parametrize("text", [REPORT, "Mass " + REPORT, "mass", "", "Mass\n"])
def test_report_text_never_reaches_a_live_source(server, tmp_path, text):
    server.answer({"extract": EXTRACT})
    for source in (Wikipedia(tmp_path, server.url), chat(server, tmp_path)):
        for ask in (source.record, lambda text, source=source: source.knowledge([text])):
            with pytest.raises(InputError, match="only names of concepts may be sent"):
                ask(text)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_all_that_is_ever_sent_is_one_of_a_few_fixed_questions(server, tmp_path):
    server.answer({"extract": EXTRACT, "choices": [{"message": {"content": "a thing"}}]})
    sources = (Wikipedia(tmp_path, server.url), chat(server, tmp_path))
    assert all(set(source.knowledge().opening) == set(DESCRIBED) for source in sources)
    prompts = {knowledge_live.PROMPT.format(concept=concept) for concept in DESCRIBED}
    articles = {knowledge_live.ARTICLES.get(concept, concept).lower() for concept in DESCRIBED}
    for request in server.requests:
        if request["method"] == "POST":
            (message,) = json.loads(request["body"])["messages"]
            assert message["content"] in prompts
        else:
            assert request["body"] == ""
            title = request["path"].removeprefix("/api/rest_v1/page/summary/")
            assert title.replace("_", " ").lower() in articles
    assert sources[0].knowledge().describe("Mass", "left apex") == (
        "Mass refers to an infection of the lung. It is located at left apex."
    )


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_a_bounded_number_of_times(server, tmp_path, status):
    server.answer(b"", status)
    server.answer({"extract": EXTRACT})
    assert Wikipedia(tmp_path, server.url).record("Pneumonia")["text"]
    assert len(server.requests) == 2

    server.requests.clear()
    server.answers[:] = [(status, b"")]
    with pytest.raises(LiveSourceError, match="use the source kb or llm"):
        Wikipedia(tmp_path, server.url).record("Edema")
    assert len(server.requests) == 1 + knowledge_live.RETRIES


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"<html>sign in</html>", "not JSON"),
        ({"title": "Pneumonia"}, "lacks the text"),
        ([], "lacks the text"),
        ({"extract": None}, "lacks the text"),
        ({"extract": ""}, "is empty"),
        (b'"' + b"x" * (knowledge_live.MAX_BYTES + 10) + b'"', "longer than 1,000,000 bytes"),
    ],
)
def test_a_useless_answer_is_refused_and_not_kept(server, tmp_path, answer, says):
    server.answer(answer)
    with pytest.raises(LiveSourceError, match=says):
        Wikipedia(tmp_path, server.url).record("Pneumonia")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_and_a_silent_server_are_reported(server, tmp_path, monkeypatch):
    monkeypatch.setattr(knowledge_live, "READ", 0.2)
    monkeypatch.setattr(knowledge_live, "RETRIES", 0)
    for status, says in ((404, "404"), (0, "timed out")):
        server.answers[:] = [(status, b"")]
        with pytest.raises(LiveSourceError, match=says):
            Wikipedia(tmp_path, server.url).record("Pneumonia")


CHAT = {"RCTPL_LIVE_KNOWLEDGE": "chat", "RCTPL_CHAT_MODEL": "tiny", "RCTPL_CHAT_KEY": "k"}


def test_nothing_is_live_unless_it_is_switched_on(tmp_path):
    assert live_source(tmp_path, {}) is None
    found = live_source(tmp_path, {"RCTPL_LIVE_KNOWLEDGE": "wikipedia"})
    assert found == Wikipedia(tmp_path, "https://en.wikipedia.org")
    found = live_source(tmp_path, CHAT | {"RCTPL_CHAT_URL": "https://models.example/"})
    assert found == ChatModel(tmp_path, "https://models.example", model="tiny", api_key="k")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"RCTPL_LIVE_KNOWLEDGE": "oracle"}, "Set it to wikipedia or chat"),
        ({"RCTPL_LIVE_KNOWLEDGE": "chat"}, "'' is no web address"),
        ({"RCTPL_LIVE_KNOWLEDGE": "chat", "RCTPL_CHAT_URL": "file:///x"}, "is no web address"),
        ({"RCTPL_LIVE_KNOWLEDGE": "chat", "RCTPL_CHAT_URL": "http://a"}, "no model is named"),
        (CHAT | {"RCTPL_CHAT_URL": "http://models.example"}, "clear text"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, says):
    with pytest.raises(InputError, match=says):
        live_source(tmp_path, settings)


@pytest.mark.parametrize(
    ("extract", "expected"),
    [
        ("Atelectasis is the collapse of a lung. It is common.", "the collapse of a lung"),
        ("Nodules (SPN) are small. More.", "small"),
        ("No verb here. It is there.", "No verb here"),
        ("", ""),
    ],
)
def test_definitions_are_cut_from_an_opening(extract, expected):
    assert knowledge_live.definition(extract) == expected
    assert knowledge_live.first_words("word " * 100) == " ".join(["word"] * 60)
