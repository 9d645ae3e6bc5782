"""What synthetic visits carry of the label, and how much they look like visits.

    python benches/studies/label.py [--splits 0 1] [--patients 8000] [--set NAME=VALUE ...]

On the simulated hospital, balanced by sex: two thirds of the patients are learned from and tuned
on, a third is held out. Prints a row of a table for each split: diagnoses of visits in which a
patient dies, their standard deviation, the likelihood of the tuning subjects, and AUROC and average
precision, on the real visits that were held out, of classifiers (logistic regression; XGBoost) of
synthetic visits alone, of real and synthetic ones, and of real ones.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from balancing import read
from sklearn.metrics import average_precision_score, roc_auc_score

import equipoise as eq
from equipoise import schema
from equipoise.balance import plan_balance
from equipoise.evaluate.downstream import logistic_regression, xgboost
from equipoise.generator import GeneratorConfig, sample, train_generator
from equipoise.options import settings_in

BY = ["sex"]
ROW = "| {} | {} | {} | {:.2f} | {} | {} | {} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--patients", type=int, default=8_000)
    parser.add_argument("--set", nargs="*", default=[], help="fields of GeneratorConfig")
    asked = parser.parse_args()
    records = read("simulated", Path(), asked.patients, 0)
    for split in asked.splits:
        print(row(records, split, asked.set), flush=True)


def row(records: eq.VisitRecords, split: int, settings: list[str]) -> str:
    train, test = records.split(by="subject", fraction=2 / 3, seed=split)
    fit, tune = train.split(by="subject", fraction=0.85, seed=split)
    vocabulary = eq.Vocabulary.fit(fit)
    real, tuning, held_out = (part.encode(vocabulary) for part in (fit, tune, test))
    config = replace(GeneratorConfig.for_cohort(real), **settings_in(settings))
    generator = train_generator(real, BY, seed=0, config=config, tuning=tuning)
    synthetic = sample(generator, plan_balance(real, BY), seed=0)
    numbers = zip(diagnoses(real), diagnoses(synthetic), strict=True)
    looks = [f"{of_synthetic:.2f} ({of_real:.2f})" for of_real, of_synthetic in numbers]
    nll = generator.history["tuning_nll"].min()
    sources = (synthetic, eq.concat([real, synthetic]), real)
    return ROW.format(split, *looks, nll, *(judged(source, held_out) for source in sources))


def diagnoses(cohort: eq.Cohort) -> tuple[float, float]:
    """Mean and standard deviation of the number of codes, labs left out, of positive visits."""
    codes = (cohort.vocabulary.columns["kind"] != "lab").to_numpy()
    positive = cohort.visits[schema.LABEL].to_numpy()
    number = cohort.matrix()[positive] @ codes.astype(np.int64)
    return float(number.mean()), float(number.std())


def judged(train: eq.Cohort, test: eq.Cohort) -> str:
    truth, y = (cohort.visits[schema.LABEL].to_numpy() for cohort in (test, train))
    told = []
    for fit in (logistic_regression, xgboost):
        scores = fit(train.matrix(), y.astype(int), None, 0, 1).scores(test.matrix())
        told.append(
            f"{roc_auc_score(truth, scores):.3f}, {average_precision_score(truth, scores):.3f}"
        )
    return "; ".join(told)


if __name__ == "__main__":
    main()
