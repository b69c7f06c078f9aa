// The scenario (see ../scenario.md) with org.apache.kafka:kafka-clients and its defaults.
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

public class Scenario {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final String TOPIC = System.getenv("TOPIC");
    static final String GROUP = System.getenv("GROUP");
    static final Path STATE = Path.of(System.getenv("CLIENT_CACHE"), "committed");

    static Properties properties(Object... pairs) {
        Properties p = new Properties();
        p.put("bootstrap.servers", BOOTSTRAP);
        for (int i = 0; i < pairs.length; i += 2) p.put(pairs[i], pairs[i + 1]);
        return p;
    }

    static void produce(int from, int to) throws Exception {
        try (var producer = new KafkaProducer<>(properties("batch.size", 512), new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int n = from; n < to; n++) sent.add(producer.send(new ProducerRecord<>(TOPIC, "k" + n, "v" + n)));
            for (var future : sent) future.get();
        }
    }

    /** Takes exactly count records in the group and commits exactly those. */
    static List<ConsumerRecord<String, String>> read(String group, int count) {
        var settings = properties("group.id", group, "auto.offset.reset", "earliest", "enable.auto.commit", "false");
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(TOPIC));
            while (records.size() < count) {
                if (System.nanoTime() > deadline) throw new AssertionError("only " + records.size() + " of " + count + " records");
                for (var record : consumer.poll(Duration.ofMillis(500))) if (records.size() < count) records.add(record);
            }
            Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
            for (var r : records) ends.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
            consumer.commitSync(ends);
        }
        return records;
    }

    static int number(String text) {
        return Integer.parseInt(text.substring(1));
    }

    static void check(List<ConsumerRecord<String, String>> records, List<Integer> numbers) {
        List<Integer> found = records.stream().map(r -> number(r.key())).sorted().collect(Collectors.toList());
        if (!found.equals(numbers)) throw new AssertionError("lost or repeated records: " + found.size() + " of " + numbers.size());
        Map<Integer, ConsumerRecord<String, String>> last = new HashMap<>();
        for (var r : records) {
            var before = last.put(r.partition(), r);
            if (number(r.key()) != number(r.value())) throw new AssertionError(r.toString());
            if (before != null && (before.offset() >= r.offset() || number(before.key()) >= number(r.key())))
                throw new AssertionError("out of order: " + r);
        }
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("first")) {
            try (var admin = Admin.create(properties())) {
                admin.createTopics(List.of(new NewTopic(TOPIC, 3, (short) 1))).all().get();
                if (admin.describeCluster().clusterId().get() == null) throw new AssertionError("no cluster id");
            }
            produce(0, 1000);
            Files.writeString(STATE, read(GROUP, 500).stream().map(r -> r.key().substring(1)).collect(Collectors.joining("\n")));
        } else {
            produce(1000, 1200);
            Set<Integer> committed = Files.readAllLines(STATE).stream().map(Integer::valueOf).collect(Collectors.toSet());
            var all = IntStream.range(0, 1200).boxed().collect(Collectors.toList());
            check(read(GROUP, 700), all.stream().filter(n -> !committed.contains(n)).collect(Collectors.toList()));
            check(read(GROUP + "-all", 1200), all);
        }
    }
}
