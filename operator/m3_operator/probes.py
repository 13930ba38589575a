"""`/healthz` and `/metrics`. Not kopf's probe: that one is green as long as it runs itself, deaf or not."""

from __future__ import annotations

from aiohttp import web

from m3_operator.metrics import Metrics


async def serve(metrics: Metrics, port: int) -> web.AppRunner:
    """Start to serve on all addresses; stop it with `cleanup()`."""

    async def healthz(_: web.Request) -> web.Response:
        text = f"last reconcile {metrics.age():.1f} s ago\n"
        return web.Response(text=text, status=200 if metrics.is_alive else 503)

    async def exposition(_: web.Request) -> web.Response:
        body, content_type = metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/metrics", exposition)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
