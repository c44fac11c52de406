"""Central through a client that was generated from its description: buys, is refused, cancels, pages."""

import sys

from shelfstream_central_client import Client
from shelfstream_central_client.api.purchases import buy, buy_at_store, cancel_purchase, list_purchases
from shelfstream_central_client.api.stock import get_item, list_inventory
from shelfstream_central_client.models import Buy, BuyAtStore, CancelPurchase, Problem

STORE, PRODUCT = "store-1", "coffee"

with Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:

    def stock():
        return get_item.sync(STORE, PRODUCT, client=client).online_available

    before = stock()
    bought = buy_at_store.sync(STORE, PRODUCT, client=client, body=BuyAtStore(quantity=2), idempotency_key="client-1")
    assert (bought.quantity, bought.purchase.status) == (before - 2, "confirmed"), bought
    again = buy_at_store.sync(STORE, PRODUCT, client=client, body=BuyAtStore(quantity=2), idempotency_key="client-1")
    assert again.purchase.purchase_id == bought.purchase.purchase_id, again

    refused = buy.sync_detailed(client=client, body=Buy(product_id=PRODUCT, quantity=1_000_000))
    assert isinstance(refused.parsed, Problem) and refused.parsed.code == "insufficient_stock", refused
    assert refused.status_code == 409 and not refused.parsed.retryable, refused

    chosen = buy.sync(client=client, body=Buy(product_id=PRODUCT, quantity=1, reference="client"), prefer="wait=10")
    assert chosen.status == "confirmed" and chosen.attempts[-1].code == "confirmed", chosen
    cancelled = cancel_purchase.sync(chosen.purchase_id, client=client, body=CancelPurchase(reason="a test"), prefer="wait=10")
    assert cancelled.status == "cancelled" and stock() == before - 2, cancelled

    seen, cursor = [], None
    while True:
        page = list_inventory.sync(client=client, size=1, **({"cursor": cursor} if cursor else {}))
        seen += [item.product_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == page.found >= 2 and seen == sorted(seen) and PRODUCT in seen, seen
    assert [purchase.purchase_id for purchase in list_purchases.sync(client=client, reference="client").items] == [
        chosen.purchase_id
    ]

print("a generated client has bought, cancelled and paged")
