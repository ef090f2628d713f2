"""luigid for one user of this host: no other user, and no page of another site, can read or change its state.

Run by `numastudy ui` as `python -m bench.luigid`, with the options of luigid.
"""

from urllib.parse import urlsplit

from luigi import cmdline, server
from tornado.web import HTTPError, RequestHandler

from bench.host.connections import OWN_HOST, is_own_user


def check(handler: RequestHandler) -> None:
    """Raise HTTPError for a request of another user, under another name, or from a page of another origin."""
    headers = handler.request.headers
    host = headers.get("Host", "")
    if not OWN_HOST.fullmatch(host):
        raise HTTPError(403, reason="open http://127.0.0.1 instead")
    if not _from_own_user(handler):
        raise HTTPError(403, reason="this luigid is of another user: run numastudy ui with ports of your own")
    # Programs send neither of these headers.
    if urlsplit(headers.get("Origin", f"http://{host}")).netloc != host or not _from_own_page(handler):
        raise HTTPError(403, reason="a page of another site sent this")


def _from_own_user(handler: RequestHandler) -> bool:
    """Also in a request that was sent over a connection that has ended meanwhile."""
    stream = getattr(handler.request.connection, "stream", None)
    try:
        return stream is not None and is_own_user(stream.socket.getpeername()[:2], stream.socket.getsockname()[:2])
    except (OSError, AttributeError):
        return False


def _from_own_page(handler: RequestHandler) -> bool:
    """A GET of luigi's API may change its state, and is sent without an origin, also by a link."""
    headers = handler.request.headers
    site = headers.get("Sec-Fetch-Site")
    if not handler.request.path.startswith("/api/"):
        return site in (None, "none", "same-origin") or headers.get("Sec-Fetch-Mode") == "navigate"
    if site is None and headers.get("User-Agent", "").startswith("Mozilla/"):
        # A browser without that header; luigi's own page adds this one, which a page of another site cannot.
        return headers.get("X-Requested-With") == "XMLHttpRequest"
    return site in (None, "same-origin")


def main() -> None:
    """Add the check to every handler of luigi's application."""
    for handler in vars(server).values():
        if isinstance(handler, type) and issubclass(handler, RequestHandler):
            handler.prepare = check  # type: ignore[method-assign,assignment]  # tornado calls it with the handler
    cmdline.luigid()  # type: ignore[no-untyped-call]  # luigi does not annotate it


if __name__ == "__main__":
    main()
