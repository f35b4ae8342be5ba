"""html: a report as one page that needs no network: text, tables and interactive charts."""
