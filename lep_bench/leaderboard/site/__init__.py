"""The table as one HTML page that needs no network: sorting, details of every model, its answers."""
