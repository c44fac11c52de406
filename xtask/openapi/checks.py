"""What is ours in holding a server against its description."""

import re
from urllib.parse import unquote

import schemathesis


@schemathesis.check
def problem_is_described(ctx, response, case):
    """A problem's code is one of the operation's `x-problems`."""
    if response.headers.get("content-type", [""])[0] != "application/problem+json":
        return
    described = case.operation.definition.raw.get("x-problems", [])
    code = response.json()["code"]
    # What is wrong with method or path is no operation's.
    assert code in [*described, "unknown_route", "method_not_allowed"], f"{code} is not one of {described}"


# Places that only an answer of the server can name.
PLACES = ["cursor", "after", "minPosition"]
# How far pages reach, in records.
REACH = 100_000
# Units that one request asks for of a product, all of its lines together.
UNITS = 1_000_000
# A change needs one member at least; in words of JSON Schema that would be a union, which generated clients cannot read.
NEEDED = {
    "changeItem": ({"name", "discontinued", "lowAt"}, {"discontinued": False}),
    "changeStore": ({"onlineSale", "retired"}, {"onlineSale": True}),
}


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Takes out of requests that are to be accepted what they cannot know, or what a description cannot rule out."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    query = case.query or {}
    for place in PLACES:
        query.pop(place, None)
    if "page" in query:
        query["page"] = min(int(query["page"]), REACH // int(query.get("size", 50)))
    if "id" in (case.path_parameters or {}) and not re.fullmatch(
        r"[!-~]+", unquote(str(case.path_parameters["id"]))
    ):
        # Taken from an answer, or made, without a look at what an id may be.
        case.path_parameters["id"] = "unknown"
    if not isinstance(case.body, dict):
        return
    case.body = whole(case.body)
    operation = case.operation.definition.raw["operationId"]
    case.body.pop("countedAt", None)
    if operation == "replayWebhook":
        case.body["after"] = 0
    if operation == "reconcile":
        # No two lines are of one product.
        case.body["lines"] = list({line["productId"]: line for line in case.body["lines"]}.values())
    if operation == "confirmReservation":
        # No more than is held.
        case.body.pop("lines", None)
    if operation == "makeTransfer" and case.body["toStoreId"] == case.body["fromStoreId"]:
        # Units go to another store.
        case.body["toStoreId"] = "elsewhere"
    if operation == "buy" and case.body.get("lines"):
        # What is wanted is said in one of two ways: a union again.
        case.body.pop("productId", None)
        case.body.pop("quantity", None)
    elif operation == "buy":
        case.body.pop("lines", None)
        case.body["productId"] = case.body.get("productId") or "coffee"
        case.body["quantity"] = case.body.get("quantity") or 1
    for line in case.body.get("lines") or []:
        line["quantity"] = min(line["quantity"], UNITS // len(case.body["lines"]))
    if case.body.get("storeId") is not None:
        # The store is named, or chosen by a policy.
        case.body.pop("policy", None)
    # `false` is no way back, and with `true` the store would be gone for everything that follows.
    case.body.pop("retired", None)
    names, some = NEEDED.get(operation, (set(), {}))
    if not any(case.body.get(name) is not None for name in names):
        case.body.update(some)


def whole(value):
    """1.0 is an integer to JSON Schema, and none to these servers."""
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
