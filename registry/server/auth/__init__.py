"""Who a caller is and what they may do. No HTTP, no SQL."""
