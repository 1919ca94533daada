"""Glossary: what the words on these pages mean."""

from __future__ import annotations

from app.text import bullets, sentence
from app.widgets import page, write
from app.widgets.glossary import GROUPS, as_text

page.open_page("Glossary", needs_runs=False)
write.markdown("In a clinician's words first; *in italics*, the method's own terms.")
for heading, terms in GROUPS.items():
    write.subheader("{}", heading)
    write.markdown("{}", bullets(sentence("**{}**: {}", term.word, as_text(term)) for term in terms))
