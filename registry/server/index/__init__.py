"""What exists: names, links and uploads in SQL. Functions over a transaction; no HTTP, no bytes of blobs."""
