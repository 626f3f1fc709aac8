"""Every metric and every log event, declared once. The only importer of prometheus_client."""
