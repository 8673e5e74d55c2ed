"""Pure decisions about spending: the calendar, prices, what an attempt books, and the ledger."""
