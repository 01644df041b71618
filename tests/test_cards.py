import pandas as pd
import pytest

from hrsa.report import plots, prose
from hrsa.report.plots.cards import Card, Outcome
from hrsa.verdict.claims import CLAIMS, OUTCOMES


def claims(outcome, *pairs):
    rows = [("scores", "Null effect: an RLVR start scores like its base, all tasks weighed equally", "a rule")]
    rows += [(claim.level, claim.claim, claim.rule) for claim in CLAIMS]
    rows += [("geometry", "SFT changes a backbone more than RLVR", f"{name}: below") for name in ("k-NN overlap",
                                                                                                  "debiased CKA")]
    return pd.DataFrame([{"level": level, "claim": claim, "rule": rule, "pair": pair, "outcome": outcome, "value": 0.5,
                          "low": 0.4, "high": 0.6, "measured": "0.5 [0.4, 0.6], against 1"}
                         for level, claim, rule in rows for pair in pairs])


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_main_claim_has_a_card_with_mark_word_value_and_evidence(outcome):
    found = prose.paper.claim_cards(claims(outcome, "a-vs-b", "a-vs-<c>"))
    assert 8 <= len(found) <= 10 and all(len(card.outcomes) == 2 for card in found)
    grid = plots.cards(found, prose.paper.MARKS)
    html = grid.html()
    assert html.count(f"{prose.paper.MARKS[outcome]}</span> {outcome}</strong>") == 2 * len(found)
    assert "a-vs-&lt;c&gt;:" in html and "0.5 [0.4, 0.6], against 1" in html and 'href="08_knn.html"' in html
    assert len(set(prose.paper.MARKS.values())) == len(OUTCOMES), "outcomes are told apart without colour"
    assert "in 12 cells of RLVR pairs" in html and "0.484 before, 0.474 after" in repr(grid)


def test_what_was_not_measured_gives_way_to_what_was_and_none_is_invented():
    table = claims("inconclusive", "a-vs-b", "a-vs-c")
    table.loc[table["pair"] == "a-vs-c", ["value", "low", "high"]] = None
    assert {o.label for card in prose.paper.claim_cards(table) for o in card.outcomes} == {"a-vs-b:"}
    only = table[table["claim"].str.startswith("RLVR keeps the basis")]
    assert [card.title for card in prose.paper.claim_cards(only)] == ["RLVR keeps the basis"]


def test_cards_without_outcomes_or_marks_are_refused():
    with pytest.raises(ValueError, match="expected at least one card, got none"):
        plots.cards([], {})
    card = Card("t", "by", "none", (Outcome("p", "perhaps"),), ("a.html", "A"))
    with pytest.raises(ValueError, match=r"expected outcomes among \['holds'\] on card 't', got \['perhaps'\]"):
        plots.cards([card], {"holds": "+"})
    with pytest.raises(ValueError, match="got none"):
        plots.cards([Card("t", "by", "none", (), ("a.html", "A"))], {"holds": "+"})
