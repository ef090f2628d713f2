"""luigid for this host alone: a page of another site cannot change its state, whatever name that site resolves to.

Run by `numastudy ui` as `python -m bench.luigid`, with the options of luigid.
"""

import re
from urllib.parse import urlsplit

from luigi import cmdline, server
from tornado.web import HTTPError, RequestHandler

OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")


def check(handler: RequestHandler) -> None:
    """Raise HTTPError for a request under another name, and for one that a page of another origin sends."""
    headers = handler.request.headers
    host = headers.get("Host", "")
    if not OWN_HOST.fullmatch(host):
        raise HTTPError(403, reason="open http://127.0.0.1 instead")
    # Programs send neither of these headers.
    if urlsplit(headers.get("Origin", f"http://{host}")).netloc != host:
        raise HTTPError(403, reason="a page of another site sent this")
    if headers.get("Sec-Fetch-Site", "none") == "cross-site" and headers.get("Sec-Fetch-Mode") != "navigate":
        raise HTTPError(403, reason="a page of another site sent this")


def main() -> None:
    """Add the check to every handler of luigi's application."""
    for handler in vars(server).values():
        if isinstance(handler, type) and issubclass(handler, RequestHandler):
            handler.prepare = check  # type: ignore[method-assign,assignment]  # tornado calls it with the handler
    cmdline.luigid()  # type: ignore[no-untyped-call]  # luigi does not annotate it


if __name__ == "__main__":
    main()
