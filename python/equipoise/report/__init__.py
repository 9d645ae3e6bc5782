"""The report: results in, one HTML file out. The only room that renders."""
