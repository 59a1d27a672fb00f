"""The page: what people look at after a run, as files that open without a server or a network.

``<results_dir>/index.html`` has all runs, ``<results_dir>/page/<dataset>/<run_id>.html`` the classes of one, with
curves, pictures and where its numbers come from. Each file holds its style and script; only pictures are loaded.
Everything on them is made anew from the records, so they can be deleted at any time. Whatever a record or a file
name contains is shown as text: templates escape it, and the pages' own policy refuses any other script.
"""

from winclip_bench.report.page.pages import write_page

__all__ = ["write_page"]
