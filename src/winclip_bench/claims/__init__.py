"""Published numbers against records: which claims hold; never imports torch."""
