"""A run's figures and its page, all drawn from its saved results.

Nothing is imported here: import the module that you need. `timeline` and `page` run without matplotlib; `curves`,
`pictures`, `search` and `style` need it.
"""
