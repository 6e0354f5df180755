"""Webhooks against real HTTP servers on loopback, and the addresses that are refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading

import httpx
import pytest

from core.config import MAX_URL_CHARACTERS, ConfigError, Settings
from core.errors import QueueFull, WebhookRefused
from outbound.public_network import MAX_LOOKUPS, is_public
from outbound.webhooks import Webhooks
from tests.helpers import HANG_SECONDS, assert_error, fake_models, ready, serving, until, with_settings
from tests.outbound.receiver import SECRET, Receiver, done, network, receiver, webhooks
from tests.serving.gated_service import ASYNC, request_fields

# delivery


async def test_the_job_object_is_posted_when_the_job_is_done(open_settings: Settings) -> None:
    async with receiver() as hook, serving(open_settings, lambda _: fake_models()) as (client, _):
        await ready(client)
        response = await client.post("/upscale", json=request_fields(webhook=hook.url), headers=ASYNC)
        assert response.status_code == 202, response.text
        async with asyncio.timeout(HANG_SECONDS):
            posted = json.loads(await hook.got.get())
        assert posted == (await client.get(response.headers["location"])).json()
        assert posted["status"] == "succeeded"
        assert hook.heads[0]["line"] == "POST /done?a=b HTTP/1.1"
        assert hook.heads[0]["host"] == f"127.0.0.1:{hook.port}"
        synchronous = (await client.post("/upscale", json=request_fields(webhook=hook.url))).json()
        assert "respond-async" in synchronous["warnings"][0]
        assert hook.got.empty()


@pytest.mark.parametrize("root_path", ["", "/up"])
async def test_its_urls_have_the_path_of_the_settings_and_none_that_the_client_said(
    open_settings: Settings, root_path: str
) -> None:
    settings = with_settings(open_settings, root_path=root_path)
    async with receiver() as hook, serving(settings, lambda _: fake_models()) as (client, _):
        await ready(client)
        headers = {**ASYNC, "X-Forwarded-Prefix": "/of-the-client"}
        started = await client.post("/upscale", json=request_fields(webhook=hook.url), headers=headers)
        async with asyncio.timeout(HANG_SECONDS):
            posted = json.loads(await hook.got.get())
    assert posted["urls"]["get"] == f"{root_path}/jobs/{started.json()['id']}"
    assert posted["result"]["url"].startswith(f"{root_path}/files/")


async def test_every_attempt_is_signed_as_standard_webhooks_says(open_settings: Settings) -> None:
    async with receiver() as hook, webhooks(open_settings) as sender:
        hook.responses = [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
        sender.deliver(await sender.check(hook.url), b'{"a": 1}')
        for _ in range(2):
            await hook.got.get()
    assert len({head["webhook-id"] for head in hook.heads}) == 1
    for head in hook.heads:
        signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + b'{"a": 1}'
        digest = hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()
        assert head["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


async def test_an_address_that_is_silent_leaves_the_others_their_time(
    open_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbound.webhooks.ATTEMPT_SECONDS", 1.5)
    with socket.create_server(("127.0.0.2", 0), backlog=0) as silent, contextlib.ExitStack() as knocking:
        port = silent.getsockname()[1]
        for _ in range(4):  # more than its backlog: it answers nobody else
            knock = knocking.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(("127.0.0.2", port))
        hook = Receiver(port=port)
        server = await asyncio.start_server(hook.serve, "127.0.0.1", port)
        async with server, webhooks(open_settings, lambda *_: ["127.0.0.2", "127.0.0.1"]) as sender:
            sender.deliver(await sender.check(f"http://two-addresses.example:{port}/"), b"{}")
            assert await asyncio.wait_for(hook.got.get(), HANG_SECONDS) == b"{}"


async def test_names_that_nobody_answers_for_hold_up_no_others_and_not_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbound.public_network.RESOLVE_SECONDS", HANG_SECONDS)
    answered = threading.Event()

    def resolve(host: str, _port: int) -> list[str]:
        if host != "good.example":
            answered.wait(HANG_SECONDS)
        return ["93.184.216.34"]

    guard = network(settings, resolve)
    async with asyncio.TaskGroup() as tasks:
        hanging = [tasks.create_task(guard._addresses(f"bad{number}.example", 80)) for number in range(MAX_LOOKUPS - 1)]
        await asyncio.sleep(0)
        assert await guard._addresses("good.example", 80) == ["93.184.216.34"]
        await until(lambda: sum(thread.name == "dns" for thread in threading.enumerate()) == len(hanging))
        hanging.append(tasks.create_task(guard._addresses("one-more.example", 80)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await guard._addresses("good.example", 80)
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "dns")
        answered.set()


async def test_without_a_secret_there_is_no_signature(settings: Settings) -> None:
    async with receiver() as hook, webhooks(with_settings(settings, webhook_allow_private=True)) as sender:
        sender.deliver(await sender.check(hook.url), b"{}")
        await hook.got.get()
    assert "webhook-id" in hook.heads[0]
    assert "webhook-signature" not in hook.heads[0]


REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000


@pytest.mark.parametrize(
    ("response", "attempts"),
    [
        (b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n", 8),
        (REDIRECT, 8),
        (b"what?", 8),
        (b"", 8),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", 1),
        (ENDLESS, 1),
    ],
)
async def test_what_is_not_taken_is_sent_again_a_bounded_number_of_times(
    open_settings: Settings, response: bytes, attempts: int
) -> None:
    async with receiver() as hook:
        hook.responses = [response]
        sender = Webhooks(open_settings.webhook_key, network(open_settings), rng=lambda: 0.0)
        sender.deliver(await sender.check(hook.url), b"{}")
        await done(sender)
        await sender.close()
    assert [head["line"] for head in hook.heads] == ["POST /done?a=b HTTP/1.1"] * attempts


async def test_at_the_end_what_waits_for_its_next_attempt_gets_one_at_once(open_settings: Settings) -> None:
    async with receiver() as hook:
        hook.responses = [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]
        sender = Webhooks(open_settings.webhook_key, network(open_settings), rng=lambda: 1.0)
        sender.deliver(await sender.check(hook.url), b"{}")
        await hook.got.get()
        async with asyncio.timeout(HANG_SECONDS):
            await sender.close()
    assert len(hook.bodies) == 2


# refusal

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",  # noqa: S104
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:0:0:0:0:80ff:fffe",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00::1",
    "ff02::1",
    "2001:db8::1",
    "192.0.0.192",
    "192.88.99.1",
    "168.63.129.16",
    "3fff::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_none(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


REFUSED = [
    "http://localhost/",
    "http://LOCALHOST./",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://169.254.169.254/latest/meta-data",
    "https://10.0.0.1:8443/",
    "http://loc%61lhost/",
    "http://no-such-name.invalid/",
    "http://user:password@8.8.8.8/",
    "http://8.8.8.8:99999/",
    *(f"http://8.8.8.8:{port}/" for port in (0, 1, 22, 25, 79, 81, 110, 444, 993, 1023)),
    "https://8.8.8.8:25/",
    "ftp://8.8.8.8/",
    "file:///etc/passwd",
    "http:///path",
    "https://xn--ls8h.invalid/",
    "http://xn--a/",
    "//8.8.8.8/",
    "8.8.8.8",
    "",
    " ",
    "http://\x00/",
    "http://" + "a" * 64 + ".com/",
    "http://8.8.8.8/" + "a" * MAX_URL_CHARACTERS,
]


async def test_urls_that_lead_into_somebodys_network_or_nowhere_are_refused(settings: Settings) -> None:
    guard = network(settings)
    for url in REFUSED:
        with pytest.raises(WebhookRefused) as refused:
            await guard.check(url)
        assert "webhook" in refused.value.message, url
    await guard.check("http://8.8.8.8/")
    await guard.check("https://[2606:4700::1111]:8443/a?b")
    for port in (80, 443, 1024, 65535):
        await guard.check(f"http://8.8.8.8:{port}/")


async def test_a_refused_webhook_refuses_the_request(client: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/upscale"), ("PUT", "/jobs/my-own-id")):
        response = await client.request(method, path, json=request_fields(webhook="http://127.0.0.1/"), headers=ASYNC)
        assert assert_error(response, 400, "webhook_refused")["field"] == "webhook"
    assert_error(await client.post("/upscale", json=request_fields(webhook=7), headers=ASYNC), 400, "wrong_type")


async def test_one_address_that_is_not_public_is_enough(settings: Settings) -> None:
    guard = network(settings, lambda _host, _port: ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(WebhookRefused):
        await guard.check("http://example.com/")


async def test_a_port_of_another_service_is_not_connected_to_either(open_settings: Settings) -> None:
    with pytest.raises(WebhookRefused):
        await network(open_settings).connect_tcp("127.0.0.1", 25)


async def test_a_name_that_changes_its_meaning_after_the_check_is_not_called(settings: Settings) -> None:
    meanings = [["8.8.8.8"], ["127.0.0.1"]]
    async with receiver() as hook:
        async with webhooks(settings, lambda _host, _port: meanings.pop(0) if len(meanings) > 1 else meanings[0]) as sender:
            url = f"http://example.com:{hook.port}/"
            sender.deliver(await sender.check(url), b"{}")
            await done(sender)
        assert hook.bodies == []


async def test_the_connection_goes_to_the_address_and_the_host_header_keeps_the_name(open_settings: Settings) -> None:
    async with (
        receiver() as hook,
        webhooks(open_settings, lambda _host, _port: ["127.0.0.1"]) as sender,
    ):
        sender.deliver(await sender.check(f"http://hooks.example.com:{hook.port}/x"), b"{}")
        async with asyncio.timeout(HANG_SECONDS):
            await hook.got.get()
        assert hook.heads[0]["host"] == f"hooks.example.com:{hook.port}"


# settings


@pytest.mark.parametrize(
    "secret", ["short", base64.b64encode(bytes(23)).decode(), "whsec_!", base64.b64encode(bytes(65)).decode()]
)
def test_a_secret_that_cannot_sign_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigError, match="WEBHOOK_SECRET") as refused:
        Settings.from_env({"WEBHOOK_SECRET": secret})
    assert secret not in str(refused.value)
    assert SECRET not in repr(Settings.from_env({"WEBHOOK_SECRET": SECRET}))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_a_switch_is_read(text: str, value: bool) -> None:
    assert Settings.from_env({"WEBHOOK_ALLOW_PRIVATE": text}).webhook_allow_private is value
    with pytest.raises(ConfigError, match="WEBHOOK_ALLOW_PRIVATE must be true or false"):
        Settings.from_env({"WEBHOOK_ALLOW_PRIVATE": f"{text}x"})
