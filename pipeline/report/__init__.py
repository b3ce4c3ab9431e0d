"""A run's figures and its page, all drawn from its saved results.

Nothing is imported here, so that users import the module they need: `timeline` runs without matplotlib, `page` without
matplotlib too; `curves`, `pictures`, `search` and `style` need it.
"""
