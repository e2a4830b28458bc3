from e4t_minimal.evaluation.records import append_records, read_records


def test_records_come_back_in_their_order(tmp_path):
    path = tmp_path / "new" / "votes.jsonl"
    assert read_records(path) == []
    append_records(path, [{"a": 1}, {"a": "ä"}])
    append_records(path, [])
    append_records(path, [{"a": None}])
    assert read_records(path) == [{"a": 1}, {"a": "ä"}, {"a": None}]


def test_a_half_written_line_costs_that_line_only(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    append_records(path, [{"a": 2}, {"a": 3}])
    append_records(path, [{"a": 4}])
    assert read_records(path) == [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}]
