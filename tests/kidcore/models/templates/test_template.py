"""Templates of one's own: what they see, what names them, what is refused; and the values template."""

import sqlite3
from pathlib import Path

import duckdb
import pytest

from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models.templates.template import BUILT_IN, load_template
from kidcore.models.templates.variables import PROBE, Details, SchemaView, view_of
from kidcore.sql.column_values import column_descriptions, distinct_values
from kidcore.sql.schema_text import read_schema

COMPACT, DDL = "3533d1e7cec134b0", "07f411098b773fcb"


def folder(path: Path, schema: str, question: str = "Q: {{ question }}\n", **more: str) -> str:
    path.mkdir(exist_ok=True)
    for name, text in {"schema": schema, "question": question, **more}.items():
        (path / f"{name}.jinja").write_text(text, encoding="utf-8")
    return str(path)


def shop(path: Path, rows: str = "") -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            f"""CREATE TABLE "order" (id INTEGER PRIMARY KEY, "ship to" TEXT, price REAL, note TEXT);
            INSERT INTO "order" VALUES (1, 'Rome', 2.5, NULL), (2, 'Rome', 2.5, 'it''s'), (3, 'Oslo', 1, '{"x" * 90}');
            {rows}"""
        )
    connection.close()
    return path


def view(database: Path, count: int = 3) -> SchemaView:
    values = distinct_values(database, count)
    details = Details(lambda table: values.get(table, {}), lambda table: column_descriptions(database, table))
    return view_of(read_schema(database, "shop"), details)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_templates_end_their_pieces_in_a_newline(name: str) -> None:
    template = load_template(name)
    assert template.schema(PROBE).endswith("\n")
    assert (
        template.question("how  many\nof them?", " a hint ", "sqlite") == "question: how many of them?\nevidence: a hint\nsql:\n"
    )
    assert template.question("how many?", "", "sqlite") == "question: how many?\nsql:\n"


def test_digests_of_built_in_templates_are_those_of_old_stores() -> None:
    digests = {name: load_template(name).digest for name in BUILT_IN}
    # Those of stores made by 0.1.0: a change makes their prompts stale.
    assert (digests["compact"], digests["ddl"]) == (COMPACT, DDL)
    assert digests["values"] not in (COMPACT, DDL)


def test_values_shows_some_distinct_values_and_cuts_long_ones(tmp_path: Path) -> None:
    text = load_template("values").schema(view(shop(tmp_path / "shop.sqlite")))
    assert 'table "order"\n' in text
    assert "- id integer, primary key (values: 1, 2, 3)\n" in text
    assert "- \"ship to\" text (values: 'Rome', 'Oslo')\n" in text
    assert "- note text (values: 'it''s', '" + "x" * 39 + "…')\n" in text


def test_values_of_duckdb_can_be_copied_into_a_query(tmp_path: Path) -> None:
    columns = {
        "d": ("DATE", "'2024-01-02'"),
        "s": ("TIMESTAMP", "'2024-01-02 03:04:05'"),
        "z": ("TIMESTAMPTZ", "'2024-01-02 03:04:05+00'"),
        "t": ("TIME", "'01:02:03'"),
        "i": ("INTERVAL", "'-3 days 1:00:00'"),
        "u": ("UUID", "'00000000-0000-0000-0000-000000000001'"),
        "n": ("DECIMAL(4, 2)", "1.50"),
    }
    database = tmp_path / "a.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(f"CREATE TABLE a ({', '.join(f'{name} {kind}' for name, (kind, _value) in columns.items())})")
        connection.execute(f"INSERT INTO a VALUES ({', '.join(value for _kind, value in columns.values())})")
    text = load_template("values").schema(view(database))
    with duckdb.connect(str(database)) as connection:
        for name, (_kind, value) in columns.items():
            shown = text.partition(f"\n- {name} ")[2].partition("(values: ")[2].partition(")\n")[0]
            assert shown == value
            assert connection.execute(f"SELECT count(*) FROM a WHERE {name} = {shown}").fetchall() == [(1,)]


def test_values_are_the_first_ones_whatever_comes_later(tmp_path: Path) -> None:
    few = view(shop(tmp_path / "a.sqlite"), 2)
    more = "INSERT INTO \"order\" VALUES (9, 'Bonn', 7, 'z');"
    many = view(shop(tmp_path / "b.sqlite", more), 2)
    assert load_template("values").schema(few) == load_template("values").schema(many)
    assert "values" not in load_template("values").schema(view(tmp_path / "a.sqlite", 0))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_descriptions_of_bird_are_read_in_the_encodings_they_have(tmp_path: Path, encoding: str) -> None:
    database = shop(tmp_path / "shop.sqlite")
    text = (
        "original_column_name,column_name,column_description,data_format,value_description\r\n"
        'Ship To ,town,"the café\nit goes to",text,\r\nprice,,price,real,"in €, ' + "very " * 60 + 'long"\r\n'
    )
    (tmp_path / "database_description").mkdir()
    (tmp_path / "database_description" / "Order.csv").write_bytes(text.encode(encoding))
    found = column_descriptions(database, "order")
    assert found["ship to"] == "the café it goes to"
    assert found["price"].startswith("price; in €, very")
    assert found["price"].endswith("…")
    assert '- "ship to" text: the café it goes to (values:' in load_template("values").schema(view(database))


def test_a_file_that_describes_no_columns_is_said(tmp_path: Path) -> None:
    (tmp_path / "database_description").mkdir()
    (tmp_path / "database_description" / "order.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(KidpipeError, match="no column original_column_name"):
        column_descriptions(tmp_path / "shop.sqlite", "order")


def test_a_template_of_ones_own_sees_the_documented_variables(tmp_path: Path) -> None:
    name = folder(
        tmp_path / "mine",
        "{{ dialect }} {{ db_id }}\n{% include 'table.jinja' %}{% for key in foreign_keys %}{{ key.sql }}{% endfor +%}\n",
        "{{ question }} [{{ evidence }}] {{ dialect }}:",
        table="{% for t in tables %}{{ t.sql_name }}({{ t.columns | map(attribute='type') | join('/') }}) {% endfor %}",
    )
    template = load_template(name)
    assert template.schema(PROBE) == "sqlite probe\na(int/text) b(int) b.a_id = a.id\n"
    assert template.question("q?", "e", "duckdb") == "q? [e] duckdb:"


def test_a_template_is_known_by_its_content_not_its_place(tmp_path: Path) -> None:
    one, two = (load_template(folder(tmp_path / name, "x{{ db_id }}\n")) for name in ("one", "two"))
    other = load_template(folder(tmp_path / "three", "y{{ db_id }}\n"))
    assert one.digest == two.digest != other.digest
    first, second = (IngestSettings(template=str(tmp_path / name)) for name in ("one", "two"))
    assert first.identity() == second.identity() == {"template": "folder"}
    assert IngestSettings(template="ddl").identity() == {"template": "ddl"}


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ("{{ nothing_of_this_name }}", "'nothing_of_this_name' is undefined"),
        ("{% for t in tables %}", "does not render"),
        ("{{ tables.__class__.__mro__ }}", "unsafe|undefined"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
        ("{% include '/etc/hostname' %}", "does not render"),
        ("{{ tables[0]._details }}", "unsafe|undefined"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ range(9) | random }}", "random"),
        ("{{ tables.append(1) }}", "not safely callable|unsafe"),
    ],
)
def test_templates_that_do_not_work_or_reach_out_are_refused(tmp_path: Path, schema: str, match: str) -> None:
    with pytest.raises(KidpipeError, match=match):
        load_template(folder(tmp_path / "bad", schema))


def test_a_byte_order_mark_is_no_part_of_a_template_and_a_folder_no_file(tmp_path: Path) -> None:
    plain, marked = folder(tmp_path / "plain", "x{{ db_id }}\n"), folder(tmp_path / "marked", "x{{ db_id }}\n")
    path = Path(marked) / "schema.jinja"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (Path(marked) / "old.jinja").mkdir()
    assert load_template(marked).digest == load_template(plain).digest


def test_a_name_that_is_no_template_names_the_real_ones(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match=r"none of compact, ddl, values"):
        load_template("dll")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "schema.jinja").write_text("x")
    with pytest.raises(KidpipeError, match=r"it has no question\.jinja"):
        load_template(str(tmp_path / "half"))
