"""Live sources of knowledge (paper 3.1.2): Wikipedia, and a chat model behind an HTTP interface.

Off unless `RCTPL_LIVE_KNOWLEDGE` names one (see `live_source`). Only names of concepts ever leave
the machine: both sources refuse any other text, so that no sentence of a report can be sent.
Answers are kept on disk; every request is limited in time, in tries and in size.
"""

import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import rctpl_utils
from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of, read_json, write_json
from rctpl_utils.text.knowledge import DESCRIBED, Knowledge
from rctpl_utils.workspace import PACKAGE_DATA

PROMPT = (
    'Complete the phrase "{concept} refers to" with one clause of at most 40 words, for a reader '
    "who has to recognize it on a frontal chest radiograph: what it is, how it looks, where it "
    "tends to lie. Plain words, no line breaks, no full stop at the end."
)
ARTICLES: Mapping[str, str] = read_json(PACKAGE_DATA / "articles.json")["articles"]
CONNECT, READ = 5.0, 30.0  # seconds to wait for the connection, and for each piece of the answer
TOTAL = 60.0  # seconds for the body of the answer as a whole
RETRIES = 2  # further tries after a failed connection, a busy or a broken server
PAUSE = 0.5  # seconds before the second retry; it doubles with each one after
MAX_BYTES = 1_000_000  # of one answer
MAX_WORDS = 60  # of one definition; encoders read 77 tokens
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class LiveSourceError(RuntimeError):
    """A live source did not answer as it should; the message says what to do."""


@dataclass(frozen=True)
class LiveSource(ABC):
    """What both sources share: the check of the concept, the cache, the bounded request."""

    cache: Path
    base_url: str

    @abstractmethod
    def _question(self, concept: str) -> tuple[str, str, dict | None, dict[str, str]]:
        """Method, path and body of a request, and what else goes on record."""

    @abstractmethod
    def _read(self, answer: Any) -> str:
        """The definition, out of the answer."""

    def __post_init__(self) -> None:
        """Check the address."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = f"{self.base_url!r} is no web address"
            raise InputError(problem, "Give one such as https://host.")

    def record(self, concept: str) -> dict[str, str]:
        """{"text": the definition, "source": its address, "date": when it was fetched}.

        Raises:
            InputError: anything but the name of a concept; nothing is sent then.
            LiveSourceError: no usable answer.
        """
        if concept not in DESCRIBED:
            problem = "only names of concepts may be sent to a live source"
            raise InputError(problem, f"Choose one of: {', '.join(DESCRIBED)}.")
        method, path, body, details = self._question(concept)
        kept = self.cache / f"{hash_of(self.base_url, method, path, body)}.json"
        if kept.exists():
            return read_json(kept)
        answer = self._send(method, path, body)
        try:
            text = first_words(self._read(answer))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._failure(f"its answer lacks the text ({error!r})") from error
        if not text:
            raise self._failure(f"its answer about {concept} is empty")
        today = datetime.now(timezone.utc).date().isoformat()
        record = {"text": text, "source": f"{self.base_url}{path}", "date": today, **details}
        write_json(kept, record)
        return record

    def knowledge(self, concepts: Iterable[str] = DESCRIBED) -> Knowledge:
        """Ask for each concept, and make a source of the answers like `kb` and `llm`."""
        records = {concept: self.record(concept) for concept in concepts}
        return Knowledge.from_texts(type(self).__name__.lower(), records)

    def _headers(self) -> dict[str, str]:
        return {"User-Agent": f"rctpl-companion/{rctpl_utils.__version__} (research; python)"}

    def _failure(self, what: str) -> LiveSourceError:
        return LiveSourceError(
            f"{self.base_url}: {what}. Try again later, or use the source kb or llm, which need "
            "no network."
        )

    def _send(self, method: str, path: str, body: dict | None) -> Any:
        """The answer's JSON, read within the limits of size, time and tries."""
        retry = Retry(
            total=RETRIES,
            backoff_factor=PAUSE,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=(method,),
            respect_retry_after_header=False,  # a server may ask for hours
            raise_on_status=False,
        )
        wait, content = (CONNECT, READ), bytearray()
        with requests.Session() as session:
            session.max_redirects = 3
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            send, url, headers = session.request, f"{self.base_url}{path}", self._headers()
            try:
                answer = send(method, url, json=body, headers=headers, timeout=wait, stream=True)
                answer.raise_for_status()
                end = time.monotonic() + TOTAL
                for block in answer.iter_content(chunk_size=16_384):
                    content += block
                    if len(content) > MAX_BYTES:
                        raise self._failure(f"its answer is longer than {MAX_BYTES:,} bytes")
                    if time.monotonic() > end:
                        raise self._failure(f"its answer took longer than {TOTAL} s")
            except requests.RequestException as error:
                raise self._failure(f"no usable answer ({error})") from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._failure("its answer is not JSON") from error


@dataclass(frozen=True)
class Wikipedia(LiveSource):
    """The first sentence of the concept's article, by Wikipedia's page summaries (CC BY-SA)."""

    base_url: str = "https://en.wikipedia.org"

    def _question(self, concept: str) -> tuple[str, str, dict | None, dict[str, str]]:
        own_name = concept if concept == "COVID-19" else concept.capitalize()
        title = quote(ARTICLES.get(concept, own_name).replace(" ", "_"), safe="")
        return "GET", f"/api/rest_v1/page/summary/{title}", None, {"license": "CC BY-SA 4.0"}

    def _read(self, answer: Any) -> str:
        return definition(answer["extract"])


@dataclass(frozen=True)
class ChatModel(LiveSource):
    """A language model behind an OpenAI-compatible `/v1/chat/completions`.

    The key, a bearer token where given, is kept out of the cache and of `repr`.
    """

    model: str = ""
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the address, the model and that a key travels encrypted."""
        super().__post_init__()
        if not self.model:
            raise InputError("no model is named", "Set RCTPL_CHAT_MODEL.")
        parts = urlsplit(self.base_url)
        if self.api_key and parts.scheme != "https" and parts.hostname not in _LOCAL:
            raise InputError("the key would travel in clear text", "Use an https address.")

    def _question(self, concept: str) -> tuple[str, str, dict | None, dict[str, str]]:
        prompt = PROMPT.format(concept=concept)
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": 200}
        return "POST", "/v1/chat/completions", body, {"model": self.model, "prompt": prompt}

    def _read(self, answer: Any) -> str:
        return answer["choices"][0]["message"]["content"]

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return super()._headers() | key


def live_source(
    cache: Path, environment: Mapping[str, str] = os.environ
) -> Wikipedia | ChatModel | None:
    """The live source that the environment switches on; None, the default, means offline.

    Variables: RCTPL_LIVE_KNOWLEDGE ("wikipedia" or "chat"); for chat also RCTPL_CHAT_URL,
    RCTPL_CHAT_MODEL and, where the endpoint wants one, RCTPL_CHAT_KEY.
    Another value or a missing variable is an `InputError`.
    """
    kind = environment.get("RCTPL_LIVE_KNOWLEDGE", "")
    if not kind:
        return None
    if kind == "wikipedia":
        return Wikipedia(cache)
    if kind == "chat":
        return ChatModel(
            cache,
            environment.get("RCTPL_CHAT_URL", "").rstrip("/"),
            model=environment.get("RCTPL_CHAT_MODEL", ""),
            api_key=environment.get("RCTPL_CHAT_KEY"),
        )
    raise InputError(
        f"RCTPL_LIVE_KNOWLEDGE is {kind!r}", "Set it to wikipedia or chat, or leave it unset."
    )


def definition(extract: str) -> str:
    """Cut an encyclopedia's opening to what follows "... is": "a collapse of the lung"."""
    sentence = re.split(r"(?<=[^A-Z\d])\.\s", extract.strip(), maxsplit=1)[0]
    return re.sub(r"^.{0,120}?\b(?:is|are)\b\s+", "", sentence, count=1)


def first_words(text: str) -> str:
    """One line of at most `MAX_WORDS` words, without the full stop."""
    return " ".join(text.split()[:MAX_WORDS]).rstrip(".")
