"""Matches photographs and finds points in them; writes their features, and paints hidden parts.

    from muskie_jax.photographs.matching import match_photographs
    from muskie_jax.photographs.opening import open_network
    from muskie_jax.photographs.tracking import track_photographs

`opening` reads networks and photographs. `encoding` runs a network once over a few photographs, and then
finds any of their points; `matching` and `tracking` use it. Positions are x and y in pixels of the upright
photograph, as image viewers show it; (0, 0) is the top left corner of the first pixel, and (0.5, 0.5) its
centre.
"""
