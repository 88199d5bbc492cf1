import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;

/**
 * The job in Kafka Streams: a stream-stream join in a window of a day, as its developer guide has it, with
 * exactly_once_v2. java KafkaStreamsPeer BOOTSTRAP PREFIX FOLDER TOPIC
 *
 * Detectors are in memory, which favours it; they are written from the papers, since river is Python.
 */
public final class KafkaStreamsPeer {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) {
        String prefix = arguments[1];
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix + "streams");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[2]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

        Serde<JsonNode> json = Serdes.serdeFrom(writer(), reader());
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, JsonNode> predictions =
            builder.stream(prefix + "predictions", Consumed.with(Serdes.String(), json));
        KStream<String, JsonNode> labels = builder.stream(prefix + "labels", Consumed.with(Serdes.String(), json));
        // One for both tasks would need a lock; one per thread is what a processor per task would be.
        ThreadLocal<Watching> watching = ThreadLocal.withInitial(Watching::new);
        predictions
            .join(
                labels,
                (prediction, label) -> watching.get().outcome(prediction, label),
                JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofDays(1)),
                StreamJoined.with(Serdes.String(), json, json))
            .to(arguments[3], Produced.with(Serdes.String(), json));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
        streams.start();
    }

    private static Serializer<JsonNode> writer() {
        return (topic, value) -> {
            try {
                return value == null ? null : JSON.writeValueAsBytes(value);
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        };
    }

    private static Deserializer<JsonNode> reader() {
        return (topic, bytes) -> {
            try {
                return bytes == null ? null : JSON.readTree(bytes);
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        };
    }

    /** ADWIN, Page-Hinkley and the accuracy of the last 1,000 outcomes of one model. */
    private static final class Watching {
        private static final int WINDOW = 1_000;
        private final Adwin adwin = new Adwin(0.002);
        private final PageHinkley pageHinkley = new PageHinkley(30, 0.005, 50, 0.9999);
        private final int[] window = new int[WINDOW];
        private int seen;
        private int errors;

        JsonNode outcome(JsonNode prediction, JsonNode label) {
            int error = prediction.get("prediction").asText().equals(label.get("label").asText()) ? 0 : 1;
            boolean drift = adwin.update(error) | pageHinkley.update(error);
            errors += error - window[seen % WINDOW];
            window[seen % WINDOW] = error;
            seen++;
            ObjectNode outcome = ((ObjectNode) prediction).deepCopy();
            outcome.set("label", label.get("label"));
            outcome.set("label_ts", label.get("ts"));
            outcome.put("error_value", error);
            outcome.put("accuracy", 1 - (double) errors / Math.min(seen, WINDOW));
            outcome.put("drift", drift);
            return outcome;
        }
    }

    /** Page (1954), as river 0.26 has it: two-sided, with a fading sum. */
    private static final class PageHinkley {
        private final int minimum;
        private final double delta;
        private final double threshold;
        private final double alpha;
        private int seen;
        private double mean;
        private double rise;
        private double fall;
        private double lowest;
        private double highest;

        PageHinkley(int minimum, double delta, double threshold, double alpha) {
            this.minimum = minimum;
            this.delta = delta;
            this.threshold = threshold;
            this.alpha = alpha;
        }

        boolean update(double value) {
            seen++;
            mean += (value - mean) / seen;
            rise = alpha * rise + value - mean - delta;
            fall = alpha * fall + value - mean + delta;
            lowest = Math.min(lowest, rise);
            highest = Math.max(highest, fall);
            boolean drift = seen >= minimum && (rise - lowest > threshold || highest - fall > threshold);
            if (drift) {
                seen = 0;
                mean = rise = fall = lowest = highest = 0;
            }
            return drift;
        }
    }

    /** Bifet and Gavalda (2007): exponential histograms of five buckets, cuts sought every 32 values. */
    private static final class Adwin {
        private static final int BUCKETS = 5;
        private static final int CLOCK = 32;
        private final double delta;
        private final List<List<double[]>> rows = new ArrayList<>(); // row i: {sum} of 2^i values, oldest first
        private long width;
        private double total;
        private long seen;

        Adwin(double delta) {
            this.delta = delta;
            rows.add(new ArrayList<>());
        }

        boolean update(double value) {
            seen++;
            width++;
            total += value;
            rows.get(0).add(new double[] {value});
            for (int i = 0; rows.get(i).size() > BUCKETS; i++) {
                if (i + 1 == rows.size()) {
                    rows.add(new ArrayList<>());
                }
                List<double[]> row = rows.get(i);
                rows.get(i + 1).add(new double[] {row.remove(0)[0] + row.remove(0)[0]});
            }
            return seen % CLOCK == 0 && width > 10 && cut();
        }

        private boolean cut() {
            boolean found = false;
            boolean again = true;
            while (again) {
                again = false;
                long oldWidth = 0;
                double oldTotal = 0;
                search:
                for (int i = rows.size() - 1; i >= 0; i--) {
                    for (double[] bucket : rows.get(i)) {
                        oldWidth += 1L << i;
                        oldTotal += bucket[0];
                        long newWidth = width - oldWidth;
                        if (oldWidth < 5 || newWidth < 5) {
                            continue;
                        }
                        double mean = total / width;
                        double variance = mean * (1 - mean);
                        double harmonic = 1.0 / oldWidth + 1.0 / newWidth;
                        double log = Math.log(2 * Math.log(width) / delta);
                        double limit = Math.sqrt(2 * harmonic * variance * log) + 2.0 / 3 * harmonic * log;
                        if (Math.abs(oldTotal / oldWidth - (total - oldTotal) / newWidth) > limit) {
                            dropOldest();
                            found = again = true;
                            break search;
                        }
                    }
                }
            }
            return found;
        }

        private void dropOldest() {
            int last = rows.size() - 1;
            total -= rows.get(last).remove(0)[0];
            width -= 1L << last;
            while (rows.size() > 1 && rows.get(rows.size() - 1).isEmpty()) {
                rows.remove(rows.size() - 1);
            }
        }
    }
}
