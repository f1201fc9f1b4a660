"""A certificate for people: one HTML file that needs nothing else, and says its verdict first."""

from aps_deploy.verification.report.page import report_html, save_report

__all__ = ["report_html", "save_report"]
