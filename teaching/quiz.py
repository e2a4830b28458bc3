"""The questions of quiz/questions.toml, written as pages that can be printed.

python teaching/quiz.py     # quiz/session-N.md for the class, session-N-answers.md for the teacher
"""

from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

FOLDER = Path(__file__).parent / "quiz"
LETTERS = "ABCD"
SESSIONS = (1, 2, 3)

HEAD = """# Quiz of session {session}

Ten questions, one right answer each, ten minutes.
"""
HEAD_OF_ANSWERS = """# Quiz of session {session}: answers

To [the questions](session-{session}.md), and why each answer is right or wrong. Written by
`quiz.py` from `questions.toml`.
"""


def questions(session: int) -> list[dict]:
    """Each has: ask, right (a letter), answers {letter: text}, reasons {letter: why}, where."""
    text = (FOLDER / "questions.toml").read_text("utf-8")
    return [one for one in tomllib.loads(text)["question"] if one["session"] == session]


def page(session: int) -> str:
    parts = [HEAD.format(session=session)]
    for number, one in enumerate(questions(session), 1):
        choices = "\n".join(f"- **{letter}** {one['answers'][letter]}" for letter in LETTERS)
        parts.append(f"**{number}.** {one['ask']}\n\n{choices}\n")
    return "\n".join(parts)


def answers(session: int) -> str:
    parts = [HEAD_OF_ANSWERS.format(session=session)]
    for number, one in enumerate(questions(session), 1):
        right = one["answers"][one["right"]]
        reasons = "\n".join(f"- {_mark(one, letter)}" for letter in LETTERS)
        parts.append(
            f"**{number}.** {one['ask']}\n\n**{one['right']}**: {right} (`{one['where']}`)"
        )
        parts.append(f"\n{reasons}\n")
    return "\n".join(parts)


def _mark(one: dict, letter: str) -> str:
    verdict = "right" if letter == one["right"] else "wrong"
    return f"**{letter}** {verdict}. {one['reasons'][letter]}"


def pages() -> dict[Path, str]:
    """What the script writes, by where it stands."""
    found = {}
    for session in SESSIONS:
        found[FOLDER / f"session-{session}.md"] = page(session)
        found[FOLDER / f"session-{session}-answers.md"] = answers(session)
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
