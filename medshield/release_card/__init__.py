"""What a release says of itself to those who find it: Croissant metadata and a data card.

Both are made of the manifest and of `medshield.json`, which are public, and of what the owner
tells; so the same release gets the same bytes.
"""

from medshield.release_card.facts import CardFacts
from medshield.release_card.finished import Card, write_card
from medshield.release_card.texts import card_texts, refuse_taken

__all__ = ["CardFacts", "Card", "card_texts", "refuse_taken", "write_card"]
