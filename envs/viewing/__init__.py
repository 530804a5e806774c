"""Episodes to look at: what they kept, how they went, and a page that plays them."""
