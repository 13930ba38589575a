"""The newest state that was seen, whoever saw it."""

from m3_operator.store import REMEMBERED, Key, Store, number

A, B, C = (Key("shop", name) for name in "abc")


def held(store):
    return {str(key): item for key, item in store}


def test_an_older_state_is_not_taken():
    store = Store()
    assert store.put(A, "new", "12")
    assert not store.put(A, "old", "9")
    assert store.get(A) == "new"


def test_the_same_version_is_no_news():
    store = Store()
    assert store.put(A, "one", "9")
    assert not store.put(A, "two", "9")


def test_where_versions_say_nothing_everything_is_news():
    store = Store()
    assert store.put(A, "one", "abc")
    assert store.put(A, "two", "abc")


def test_a_list_drops_what_is_not_in_it():
    store = Store()
    store.put(A, "a", "1")
    store.put(B, "b", "2")
    store.replace([(B, "b2", "5")], "10")
    assert held(store) == {"shop/b": "b2"}


def test_but_not_what_is_newer_than_the_list():
    store = Store()
    store.put(A, "a", "11")
    store.put(B, "b", "12")
    store.replace([(B, "stale", "5"), (C, "c", "6")], "10")
    assert held(store) == {"shop/a": "a", "shop/b": "b", "shop/c": "c"}


def test_dropping_twice_is_no_fault():
    store = Store()
    store.put(A, "a", "1")
    store.drop(A)
    store.drop(A)
    assert (len(store), store.get(A)) == (0, None)


def test_what_is_gone_is_not_brought_back_by_late_news():
    store = Store()
    store.put(A, "a", "5")
    store.drop(A, "9")
    assert not store.put(A, "late", "7")
    assert store.put(A, "made again", "10")


def test_what_a_list_has_shown_to_be_gone_is_gone_too():
    store = Store()
    store.put(A, "a", "5")
    store.replace([], "9")
    assert not store.put(A, "late", "7")


def test_only_the_last_of_what_is_gone_is_remembered():
    store = Store()
    keys = [Key("shop", str(number)) for number in range(REMEMBERED + 1)]
    for key in keys:
        store.drop(key, "9")
    assert [store.put(key, "late", "7") for key in (keys[0], keys[1])] == [True, False]


def test_what_was_dropped_without_being_gone_may_come_again():
    store = Store()
    store.put(A, "a", "5")
    store.drop(A)
    assert store.put(A, "a", "5")


def test_an_opaque_version_counts_as_the_oldest():
    assert (number("17"), number("abc"), number("")) == (17, 0, 0)
