"""The token and the passwords of the heartbeat go where they should and into no log."""

from __future__ import annotations

import json

import pytest

from tests.outbound.registry import PASSWORD, TOKEN, Registry, heartbeat, logged, own_warnings, plain, running, status


async def test_token_goes_out_as_bearer_and_into_no_log(registry: Registry, all_logs: pytest.LogCaptureFixture) -> None:
    echo = f"Set-Cookie: seen={TOKEN}\r\nX-Seen: {TOKEN}\r\n"
    registry.respond = status("200 OK", echo)
    beating = heartbeat(registry.url, registry_token=TOKEN)
    async with running(beating):
        beat = await registry.next_beat()
        assert "cookie" not in (await registry.next_beat()).headers
        registry.respond = status(f"500 {TOKEN}", echo)
        await registry.next_beat()
        registry.respond = plain(f"garbage {TOKEN}\r\n\r\n".encode())
        await registry.next_beat()
        await registry.next_beat()
    assert beat.headers["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in json.dumps(beat.content)
    assert TOKEN not in logged(all_logs)
    assert TOKEN not in repr(beating)


async def test_token_that_no_header_can_carry_is_in_no_log_either(
    registry: Registry, all_logs: pytest.LogCaptureFixture
) -> None:
    async with running(heartbeat(registry.url, registry_token=f"{TOKEN}\n{TOKEN}")):
        pass  # the last beat is an attempt too
    assert registry.beats.empty()
    assert len(own_warnings(all_logs)) == 1
    assert TOKEN not in logged(all_logs)


async def test_token_beyond_ascii_goes_out_as_utf_8(registry: Registry) -> None:
    async with running(heartbeat(registry.url, registry_token="clé")):
        assert (await registry.next_beat()).headers["authorization"] == "Bearer clé"


@pytest.mark.parametrize(("token", "scheme"), [("", "Basic"), (TOKEN, "Bearer")])
async def test_password_in_the_url_is_in_no_log_and_gives_way_to_the_token(
    registry: Registry, all_logs: pytest.LogCaptureFixture, token: str, scheme: str
) -> None:
    url = registry.url.replace("http://", f"http://user:{PASSWORD}@") + f"?key={PASSWORD}"
    async with running(heartbeat(url, registry_token=token)):
        beat = await registry.next_beat()
        registry.respond = status("401 Unauthorized")
        await registry.next_beat()
        await registry.next_beat()
        await registry.close()
    assert beat.headers["authorization"].split()[0] == scheme
    assert PASSWORD not in logged(all_logs)


async def test_without_a_token_there_is_no_authorization_header(registry: Registry) -> None:
    async with running(heartbeat(registry.url)):
        assert "authorization" not in (await registry.next_beat()).headers


async def test_broken_environment_of_the_client_is_only_a_warning(
    registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", f"nonsense://user:{PASSWORD}@proxy")
    async with running(heartbeat(registry.url)):
        pass
    assert len(own_warnings(caplog)) == 1
    assert PASSWORD not in logged(caplog)
