"""What a service answers by HTTP: an API, forms, pages."""
