from __future__ import annotations

from handler.requestlog.record import COLUMNS, Record, new_id


def test_ids_are_version_7_and_ordered():
    ids = [new_id() for _ in range(100)]
    assert {key.version for key in ids} == {7}
    assert ids == sorted(ids)


def test_the_columns_are_those_of_the_design():
    design = (
        "id request_id created_at endpoint model_name api_key_id stream status http_status"
        " finish_reason error_type error_message prompt_tokens cached_tokens completion_tokens total_tokens"
        " queue_ms ttft_ms duration_ms cold_start instance_id metadata"
    )
    assert set(COLUMNS) - {"prompt", "completion"} == set(design.split())
    assert Record.__struct_config__.frozen
