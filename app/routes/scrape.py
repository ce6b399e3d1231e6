"""The process's numbers for Prometheus."""

from flask import Blueprint, Response, current_app

from app.metrics import CONTENT_TYPE
from app.routes.describe import describe

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
@describe(media="text/plain", example="# HELP vlserve_requests_total Requests answered.\n")
def metrics() -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(current_app.extensions["metrics"].text(), content_type=CONTENT_TYPE)
