"""Work that a request left for later is a part of it: in the log, and in calls."""

import logging

import pytest
from chassis_stock import started
from fastapi import APIRouter

from chassis import ChassisSettings, create_app, outgoing_headers, request_context, request_id
from chassis.observe.logs import JSONFormatter, TextFormatter

TRACE = "0123456789abcdef0123456789abcdef"
KEPT = {"X-Request-ID": "abc-1", "traceparent": f"00-{TRACE}-0123456789abcdef-01"}
RECORD = logging.makeLogRecord({"msg": "sent", "name": "sender", "levelno": logging.INFO})

router = APIRouter()


@router.get("/keep")
async def keep() -> dict[str, str]:
    return outgoing_headers()


async def test_what_a_request_kept_is_taken_up_later(settings: ChassisSettings) -> None:
    chosen = settings.model_copy(update={"http_request_id_header": "X-Correlation-ID"})
    app = create_app(chosen, package="sample", routers=[router])
    sent = {"x-correlation-id": "abc-1", "traceparent": KEPT["traceparent"]}
    async with started(app) as client:
        kept = (await client.get("/keep", headers=sent)).json()
    assert kept == {"X-Correlation-ID": "abc-1", "traceparent": KEPT["traceparent"]}
    with request_context(kept):
        assert outgoing_headers() == kept
        assert request_id() == "abc-1"


def test_log_lines_have_the_ids_within_the_block_only() -> None:
    with request_context(KEPT):
        line = JSONFormatter(()).format(RECORD)
        assert f'"request_id": "abc-1", "trace_id": "{TRACE}"' in line
        assert TextFormatter(()).format(RECORD).endswith("sent [abc-1]")
        with request_context({"traceparent": KEPT["traceparent"]}):
            assert request_id() is None
            assert "request_id" not in JSONFormatter(()).format(RECORD)
    assert "abc-1" not in JSONFormatter(()).format(RECORD)
    with request_context({}):
        assert outgoing_headers() == {}


@pytest.mark.parametrize(
    "headers",
    [{"X-Request-ID": "a\r\nSet-Cookie: b"}, {"X-Request-ID": ""}, {"traceparent": "abc-1"}],
)
def test_a_value_that_no_request_had_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is not what outgoing_headers"), request_context(headers):
        pass
