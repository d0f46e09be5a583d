"""Writes chats.jsonl: 500 questions and answers whose lengths spread as those of real chats do
(log-normal, the longest some thirty times the shortest). Random but repeatable; the bench needs
their lengths, not their meaning.

  python3 make_chats.py > chats.jsonl
"""
import json
import random

TOPICS = ["the water pump", "a wooden fence", "sourdough bread", "an old bicycle", "the night sky",
          "a vegetable bed", "the office printer", "a leaking roof", "public transport",
          "a small aquarium", "the tax form", "a first marathon", "an oil painting", "a beehive"]
QUESTIONS = ["What should I know about {}?", "How do I take care of {} in winter?",
             "My neighbour asked me about {}, and I had no answer.",
             "Could you compare two ways of dealing with {}?",
             "I have read three different opinions on {}.", "Please keep it short.",
             "I have about an hour and few tools.", "Money is not the problem, time is."]
ANSWERS = ["Start with a close look at {}, because most trouble shows early.",
           "Write down what you see, with the date beside it.",
           "Two small steps a week do more than one long weekend.",
           "Many people overlook the edges; that is where {} wears out first.",
           "If something feels stuck, stop and warm it before you try again.",
           "A plain cloth, some water and patience are enough for {}.",
           "Ask somebody who has done it twice, not somebody who has done it once.",
           "The cheaper way works for a year; the better one for ten.",
           "After that, leave {} alone for a day and look once more.",
           "It is normal that the first attempt looks uneven."]


def text(rng, sentences, count, topic):
    return " ".join(rng.choice(sentences).format(topic) for _ in range(count))


def main():
    rng = random.Random(7)
    for _ in range(500):
        topic = rng.choice(TOPICS)
        asked = max(1, round(rng.lognormvariate(0.4, 0.6)))
        answered = min(40, max(1, round(rng.lognormvariate(1.3, 0.9))))
        print(json.dumps({"messages": [
            {"role": "user", "content": text(rng, QUESTIONS, asked, topic)},
            {"role": "assistant", "content": text(rng, ANSWERS, answered, topic)}]}))


if __name__ == "__main__":
    main()
